//! The store against a model of it: a plain map with XenStore's rules spelled out once more, and simply.
//!
//! Requests of three domains, inside and outside transactions that overlap, must be answered as the model answers
//! them; a transaction that commits must look as if all of it had happened at its commit.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rustix::io::Errno;

use super::core::{ConnectionId, Core};
use super::tree;
use crate::platform::DomId;
use crate::store::Permission;
use crate::store::wire::{self, Decoder, Op};

#[derive(Clone, Debug)]
enum Request {
    Read(String),
    List(String),
    Permissions(String),
    Write(String, Vec<u8>),
    Mkdir(String),
    Remove(String),
    Set(String, Vec<Permission>),
}

#[derive(Clone, Debug)]
enum Step {
    /// A domain's request outside transactions.
    Direct(u16, Request),
    /// A request in the domain's transaction, which begins by it.
    Within(u16, Request),
    /// The end of the domain's transaction, where it has one.
    Commit(u16),
}

type Answer = Result<Vec<u8>, Errno>;

#[derive(Clone, Debug)]
struct Entry {
    value: Vec<u8>,
    permissions: Vec<Permission>,
}

/// What each path holds; nothing else.
#[derive(Clone, Debug)]
struct Model(BTreeMap<String, Entry>);

impl Model {
    fn new() -> Model {
        let entry = Entry {
            value: vec![],
            permissions: vec![Permission::none(DomId(0))],
        };
        Model(
            ["/", "/tool", "/tool/xenstored"]
                .map(|path| (path.to_string(), entry.clone()))
                .into(),
        )
    }

    /// Read and write permission, and whether it owns the node.
    fn rights(&self, who: u16, path: &str) -> Option<(bool, bool, bool)> {
        let permissions = &self.0.get(path)?.permissions;
        if who == 0 || permissions[0].domid.0 == who {
            return Some((true, true, true));
        }
        let entry = permissions[1..]
            .iter()
            .find(|p| p.domid.0 == who)
            .unwrap_or(&permissions[0]);
        Some((entry.read, entry.write, false))
    }

    /// Whether the domain may; what it is told where it may not.
    fn check(
        &self,
        who: u16,
        path: &str,
        right: fn((bool, bool, bool)) -> bool,
    ) -> Result<(), Errno> {
        let error = match self.rights(who, path) {
            Some(rights) if right(rights) => return Ok(()),
            Some(_) => Errno::ACCESS,
            None => Errno::NOENT,
        };
        let mut above = tree::parent(path);
        while !self.0.contains_key(above) {
            above = tree::parent(above);
        }
        if right(self.rights(who, above).unwrap()) {
            Err(error)
        } else {
            Err(Errno::ACCESS)
        }
    }

    fn children(&self, path: &str) -> Vec<String> {
        let inside = |p: &&String| p.as_str() != "/" && tree::parent(p) == path;
        self.0
            .keys()
            .filter(inside)
            .map(|p| tree::name(p).to_string())
            .collect()
    }

    fn create(&mut self, who: u16, path: &str, value: &[u8]) {
        let above = tree::parent(path).to_string();
        if !self.0.contains_key(&above) {
            self.create(who, &above, b"");
        }
        let mut permissions = self.0[&above].permissions.clone();
        if who != 0 {
            permissions[0].domid = DomId(who);
        }
        self.0.insert(
            path.to_string(),
            Entry {
                value: value.to_vec(),
                permissions,
            },
        );
    }

    fn answer(&mut self, who: u16, request: &Request) -> Answer {
        let ok = Ok(b"OK\0".to_vec());
        let list = |names: Vec<String>| {
            Ok(names
                .iter()
                .flat_map(|n| format!("{n}\0").into_bytes())
                .collect())
        };
        match request {
            Request::Read(path) => {
                self.check(who, path, |r| r.0)?;
                Ok(self.0[path].value.clone())
            }
            Request::List(path) => {
                self.check(who, path, |r| r.0)?;
                list(self.children(path))
            }
            Request::Permissions(path) => {
                self.check(who, path, |r| r.0)?;
                list(
                    self.0[path]
                        .permissions
                        .iter()
                        .map(Permission::to_string)
                        .collect(),
                )
            }
            Request::Write(path, value) => match self.check(who, path, |r| r.1) {
                Ok(()) => {
                    self.0.get_mut(path).unwrap().value = value.clone();
                    ok
                }
                Err(Errno::NOENT) => {
                    self.create(who, path, value);
                    ok
                }
                Err(e) => Err(e),
            },
            Request::Mkdir(path) => match self.check(who, path, |r| r.1) {
                Ok(()) => ok,
                Err(Errno::NOENT) => {
                    self.create(who, path, b"");
                    ok
                }
                Err(e) => Err(e),
            },
            Request::Remove(path) => match self.check(who, path, |r| r.1) {
                Ok(()) if path == "/" => Err(Errno::INVAL),
                Ok(()) => {
                    self.0.retain(|p, _| !tree::is_at_or_below(p, path));
                    ok
                }
                Err(Errno::NOENT) if self.0.contains_key(tree::parent(path)) => ok,
                Err(e) => Err(e),
            },
            Request::Set(path, permissions) => {
                self.check(who, path, |r| r.2)?;
                let node = self.0.get_mut(path).unwrap();
                if who != 0 && node.permissions[0].domid != permissions[0].domid {
                    return Err(Errno::PERM);
                }
                node.permissions = permissions.clone();
                ok
            }
        }
    }
}

/// The real thing, spoken to in messages.
struct Real {
    core: Core,
    connections: Vec<ConnectionId>,
}

impl Real {
    fn new() -> Real {
        let mut core = Core::new();
        for domid in [1, 2] {
            core.domain_created(DomId(domid));
        }
        let connections = [0, 1, 2]
            .map(|domid| core.connect(DomId(domid)).unwrap())
            .to_vec();
        let mut real = Real { core, connections };
        for domid in ["1", "2"] {
            real.ask(
                0,
                0,
                Op::Introduce,
                format!("{domid}\x001\x001\0").as_bytes(),
            )
            .unwrap();
        }
        real
    }

    fn ask(&mut self, who: u16, tx_id: u32, op: Op, payload: &[u8]) -> Answer {
        let message = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.feed(bytes);
            decoder.next_message().unwrap().unwrap()
        };
        let connection = self.connections[usize::from(who)];
        self.core
            .request(connection, &message(&wire::encode(op, 1, tx_id, payload)));
        let outbox = self.core.outbox(connection).unwrap();
        let answer = message(outbox.front().unwrap());
        outbox.sent(wire::HEADER_LEN + answer.payload.len());
        assert!(outbox.front().is_none(), "one answer to one request");
        if answer.header.kind == Op::Error as u32 {
            Err(wire::error_from_name(&answer.payload))
        } else {
            Ok(answer.payload)
        }
    }

    /// Lists are sorted: their order is nobody's business.
    fn answer(&mut self, who: u16, tx_id: u32, request: &Request) -> Answer {
        let with_path = |path: &str, rest: &[u8]| [path.as_bytes(), b"\0", rest].concat();
        match request {
            Request::Read(path) => self.ask(who, tx_id, Op::Read, &with_path(path, b"")),
            Request::List(path) => {
                let list = self.ask(who, tx_id, Op::Directory, &with_path(path, b""))?;
                let mut names: Vec<&[u8]> = wire::strings(&list).collect();
                names.sort();
                Ok(names.iter().flat_map(|n| [*n, b"\0"].concat()).collect())
            }
            Request::Permissions(path) => self.ask(who, tx_id, Op::GetPerms, &with_path(path, b"")),
            Request::Write(path, value) => self.ask(who, tx_id, Op::Write, &with_path(path, value)),
            Request::Mkdir(path) => self.ask(who, tx_id, Op::Mkdir, &with_path(path, b"")),
            Request::Remove(path) => self.ask(who, tx_id, Op::Rm, &with_path(path, b"")),
            Request::Set(path, permissions) => {
                let texts: String = permissions.iter().map(|p| format!("{p}\0")).collect();
                self.ask(who, tx_id, Op::SetPerms, &with_path(path, texts.as_bytes()))
            }
        }
    }
}

/// A transaction under way: its id, and what was asked and answered in it.
type Open = (u32, Vec<(Request, Answer)>);

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("/".to_string()),
        20 => prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..4).prop_map(|p| format!("/{}", p.join("/"))),
    ]
}

fn permission() -> impl Strategy<Value = Permission> {
    (0u16..3, any::<bool>(), any::<bool>()).prop_map(|(domid, read, write)| Permission {
        domid: DomId(domid),
        read,
        write,
    })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        path().prop_map(Request::Read),
        path().prop_map(Request::List),
        path().prop_map(Request::Permissions),
        (path(), prop::collection::vec(any::<u8>(), 0..3)).prop_map(|(p, v)| Request::Write(p, v)),
        path().prop_map(Request::Mkdir),
        path().prop_map(Request::Remove),
        (path(), prop::collection::vec(permission(), 1..4)).prop_map(|(p, l)| Request::Set(p, l)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0u16..3, request()).prop_map(|(who, r)| Step::Direct(who, r)),
        5 => (0u16..3, request()).prop_map(|(who, r)| Step::Within(who, r)),
        2 => (0u16..3).prop_map(Step::Commit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_store_equals_its_model(steps in prop::collection::vec(step(), 1..80)) {
        let (mut real, mut model) = (Real::new(), Model::new());
        let mut open: [Option<Open>; 3] = [None, None, None];
        // A world in which guests have something to do.
        for request in [
            Request::Write("/a".into(), vec![]),
            Request::Set("/a".into(), vec![Permission::both(DomId(1))]),
        ] {
            prop_assert_eq!(real.answer(0, 0, &request), model.answer(0, &request));
        }
        for step in &steps {
            match step {
                Step::Direct(who, request) => {
                    prop_assert_eq!(real.answer(*who, 0, request), model.answer(*who, request), "{:?}", step);
                }
                Step::Within(who, request) => {
                    let (tx_id, log) = match &mut open[usize::from(*who)] {
                        Some(open) => open,
                        none => {
                            let id = real.ask(*who, 0, Op::TransactionStart, b"\0").unwrap();
                            let id = std::str::from_utf8(&id[..id.len() - 1]).unwrap().parse().unwrap();
                            none.insert((id, Vec::new()))
                        }
                    };
                    log.push((request.clone(), real.answer(*who, *tx_id, request)));
                }
                Step::Commit(who) => {
                    let Some((tx_id, log)) = open[usize::from(*who)].take() else { continue };
                    match real.ask(*who, tx_id, Op::TransactionEnd, b"T\0") {
                        Err(e) => prop_assert_eq!(e, Errno::AGAIN),
                        Ok(_) => for (request, answer) in log {
                            prop_assert_eq!(answer, model.answer(*who, &request), "{:?} in a transaction", request);
                        }
                    }
                }
            }
        }
        // Everything that is there, and nothing else.
        for (path, entry) in &model.0 {
            prop_assert_eq!(real.answer(0, 0, &Request::Read(path.clone())), Ok(entry.value.clone()));
            let mut names = model.children(path);
            names.sort();
            let names = names.iter().flat_map(|n| format!("{n}\0").into_bytes()).collect::<Vec<u8>>();
            prop_assert_eq!(real.answer(0, 0, &Request::List(path.clone())), Ok(names));
        }
        // The count behind the quota is the truth.
        for domid in [0, 1, 2] {
            let owned = model.0.values().filter(|e| e.permissions[0].domid.0 == domid).count();
            let counted = real.ask(0, 0, Op::Control, format!("quota\0{domid}\0").as_bytes()).unwrap();
            let counted = String::from_utf8(counted).unwrap();
            let expected = format!("nodes: {owned}\n");
            prop_assert!(counted.starts_with(&expected), "{} is not {}", counted, expected);
        }
    }
}
