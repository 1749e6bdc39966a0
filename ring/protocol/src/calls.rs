//! The CUDA calls as they travel: a structure for each request and each reply, from the declaration.
//!
//! A record is [`CallHeader`], then the request's fields in the order declared; a completion is
//! [`ReplyHeader`], then the reply's fields where the status is success. Must never hold what one call
//! means: that is the frontend's and the worker's.

use crate::codec::{Bytes, Codec, DecodeError, Id, Payload, Range, Reader, messages};
use cuda_abi::{
    Context, CuResult, End, Event, Function, Kind, Module, New, Opt, Out, Param, Span, Stream, Use,
    Uuid, Val, Wire,
};

messages! {
    /// What stands in front of every call.
    CallHeader {
        /// The call's number ([`Wire`]).
        call: u16,
        /// Always 0.
        reserved: u16,
        /// The context that is current in the calling thread; 0 for none.
        context: u32,
    }
    /// What stands in front of every answer.
    ReplyHeader {
        /// A `CUresult`. An earlier posted call's error where one was pending: then this call was not
        /// carried out.
        status: u32,
        /// Always 0.
        reserved: u32,
    }
}

/// How a declared parameter travels.
pub trait Travel: Param {
    /// In the request.
    type Req: Codec + Clone + std::fmt::Debug + PartialEq;
    /// In the reply.
    type Rep: Codec + Clone + std::fmt::Debug + PartialEq;
}
impl<T: Copy + Codec + std::fmt::Debug + PartialEq> Travel for Val<T> {
    type Req = T;
    type Rep = ();
}
impl<const BYTES: usize> Travel for Span<BYTES> {
    type Req = usize;
    type Rep = ();
}
impl<T: Copy + Codec + std::fmt::Debug + PartialEq> Travel for Out<T> {
    type Req = ();
    type Rep = T;
}
impl<T: Copy + Codec + std::fmt::Debug + PartialEq> Travel for Opt<T> {
    type Req = ();
    type Rep = T;
}
impl<K: Kind> Travel for Use<K> {
    type Req = Id<K>;
    type Rep = ();
}
impl<K: Kind> Travel for New<K> {
    type Req = Id<K>;
    type Rep = ();
}
impl<K: Kind> Travel for End<K> {
    type Req = Id<K>;
    type Rep = ();
}

/// A call that travels.
pub trait Request: Codec {
    /// Its number.
    const CALL: Wire;
    /// What comes back; `()`-like for posted calls.
    type Reply: Codec;
}

macro_rules! requests {
    (
        auto { $($(#[$adoc:meta])+ $anum:literal $aname:ident ($abase:literal, $asince:literal) $amode:ident ($($ap:ident: $at:ty),*);)* }
        wire { $($(#[$wdoc:meta])+ $wnum:literal $wname:ident $wmode:ident {$($wf:ident: $wt:ty),*} -> {$($rf:ident: $rt:ty),*};)* }
        guest { $($guest:tt)* }
        driver { $($driver:tt)* }
    ) => {
        /// Requests.
        #[allow(
            non_camel_case_types,
            non_snake_case,
            missing_docs,
            reason = "calls and fields are named as CUDA names its functions and their parameters"
        )]
        pub mod request {
            use super::*;
            $(messages! { $(#[$adoc])+ $aname { $($ap: <$at as Travel>::Req),* } })*
            $(messages! { $(#[$wdoc])+ $wname { $($wf: $wt),* } })*
        }
        /// Replies.
        #[allow(
            non_camel_case_types,
            non_snake_case,
            missing_docs,
            reason = "calls and fields are named as CUDA names its functions and their parameters"
        )]
        pub mod reply {
            use super::*;
            $(messages! { $(#[$adoc])+ $aname { $($ap: <$at as Travel>::Rep),* } })*
            $(messages! { $(#[$wdoc])+ $wname { $($rf: $rt),* } })*
        }
        $(impl Request for request::$aname { const CALL: Wire = Wire::$aname; type Reply = reply::$aname; })*
        $(impl Request for request::$wname { const CALL: Wire = Wire::$wname; type Reply = reply::$wname; })*

        /// What a frontend's message is.
        #[allow(non_camel_case_types, reason = "calls are named as CUDA names its functions")]
        #[derive(Clone, Debug, PartialEq)]
        pub enum Call {
            $($(#[$adoc])+ $aname(request::$aname),)*
            $($(#[$wdoc])+ $wname(request::$wname),)*
        }
        impl Call {
            /// Takes a whole record apart.
            pub fn decode(record: &[u8]) -> Result<(CallHeader, Call), DecodeError> {
                let mut from = Reader::new(record);
                let header = CallHeader::take(&mut from)?;
                if header.reserved != 0 {
                    return Err(DecodeError::Invalid { what: "reserved field", value: header.reserved.into() });
                }
                let number = Wire::try_from(header.call)
                    .map_err(|n| DecodeError::Invalid { what: "call number", value: n.into() })?;
                let call = match number {
                    $(Wire::$aname => Call::$aname(Codec::take(&mut from)?),)*
                    $(Wire::$wname => Call::$wname(Codec::take(&mut from)?),)*
                };
                from.end()?;
                Ok((header, call))
            }
            /// The call's number.
            pub fn number(&self) -> Wire {
                match self {
                    $(Call::$aname(_) => Wire::$aname,)*
                    $(Call::$wname(_) => Wire::$wname,)*
                }
            }
        }
    };
}
cuda_abi::with_calls!(requests);

/// A whole record for `request` by a thread whose current context is `context`.
pub fn encode_call<R: Request>(context: u32, request: &R) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    CallHeader {
        call: R::CALL as u16,
        reserved: 0,
        context,
    }
    .put(&mut out);
    request.put(&mut out);
    out
}

/// A whole answer.
pub fn encode_reply<T: Codec>(result: Result<T, CuResult>) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    let status = result.as_ref().err().map_or(CuResult::SUCCESS.0, |e| e.0);
    ReplyHeader {
        status,
        reserved: 0,
    }
    .put(&mut out);
    if let Ok(reply) = result {
        reply.put(&mut out);
    }
    out
}

/// Takes an answer apart: the call's own result, or that the answer makes no sense.
pub fn decode_reply<T: Codec>(bytes: &[u8]) -> Result<Result<T, CuResult>, DecodeError> {
    let mut from = Reader::new(bytes);
    let header = ReplyHeader::take(&mut from)?;
    if header.reserved != 0 {
        return Err(DecodeError::Invalid {
            what: "reserved field",
            value: header.reserved.into(),
        });
    }
    if header.status != CuResult::SUCCESS.0 {
        from.end()?;
        return Ok(Err(CuResult(header.status)));
    }
    let reply = T::take(&mut from)?;
    from.end()?;
    Ok(Ok(reply))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_launch_round_trips() {
        let launch = request::Launch {
            function: Id::new(7),
            stream: Id::new(0),
            grid: [1, 2, 3],
            block: [32, 1, 1],
            shared: 48,
            cooperative: 0,
            params: Bytes(vec![1, 2, 3]),
        };
        let record = encode_call(5, &launch);
        let (header, call) = Call::decode(&record).unwrap();
        assert_eq!(header.context, 5);
        assert_eq!(call, Call::Launch(launch));
        assert!(Call::decode(&record[..record.len() - 1]).is_err());
        assert!(Call::decode(&[&record[..], &[0]].concat()).is_err());
    }

    #[test]
    fn only_what_a_parameter_says_travels() {
        let request = request::cuEventElapsedTime {
            pMilliseconds: (),
            hStart: Id::new(1),
            hEnd: Id::new(2),
        };
        assert_eq!(request.encode().len(), 8);
        let reply = reply::cuEventElapsedTime {
            pMilliseconds: 1.5,
            hStart: (),
            hEnd: (),
        };
        assert_eq!(reply.encode(), 1.5f32.to_le_bytes());
    }

    #[test]
    fn an_error_carries_no_reply() {
        let bytes = encode_reply::<reply::MemAlloc>(Err(CuResult::OUT_OF_MEMORY));
        assert_eq!(
            decode_reply::<reply::MemAlloc>(&bytes),
            Ok(Err(CuResult::OUT_OF_MEMORY))
        );
        // A code that no header knows passes through unchanged.
        let bytes = encode_reply::<reply::MemAlloc>(Err(CuResult(77_777)));
        assert_eq!(
            decode_reply::<reply::MemAlloc>(&bytes),
            Ok(Err(CuResult(77_777)))
        );
    }

    macro_rules! posted_calls_answer_nothing {
        (
            auto { $($(#[$adoc:meta])+ $anum:literal $aname:ident ($abase:literal, $asince:literal) $amode:ident ($($ap:ident: $at:ty),*);)* }
            wire { $($(#[$wdoc:meta])+ $wnum:literal $wname:ident $wmode:ident {$($wf:ident: $wt:ty),*} -> {$($rf:ident: $rt:ty),*};)* }
            guest { $($guest:tt)* }
            driver { $($driver:tt)* }
        ) => {
            #[test]
            fn posted_calls_answer_nothing() {
                let empty = [
                    $((Wire::$aname, reply::$aname::decode(&[]).is_ok()),)*
                    $((Wire::$wname, reply::$wname::decode(&[]).is_ok()),)*
                ];
                for (call, nothing) in empty {
                    assert!(call.mode() != cuda_abi::Mode::Post || nothing, "{call:?} is posted and has outputs");
                }
            }
        };
    }
    cuda_abi::with_calls!(posted_calls_answer_nothing);

    proptest! {
        /// Any bytes decode or are refused; what decodes encodes to the same bytes.
        #[test]
        fn any_bytes(number in 0u16..256, body in proptest::collection::vec(any::<u8>(), 0..96)) {
            let mut record = Vec::new();
            CallHeader { call: number, reserved: 0, context: 1 }.put(&mut record);
            record.extend_from_slice(&body);
            let _ = Call::decode(&record);
            let _ = decode_reply::<reply::CopyOut>(&body);
        }
    }
}
