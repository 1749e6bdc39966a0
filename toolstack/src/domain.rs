//! Which domain a text names. Names and UUIDs are those that no guest can write.

use crate::{failure::Failure, printable};
use vgpu_protocol::keys::Domain;
use xen::DomId;

/// The domain with this domid, UUID or name, in this order, as xl does.
pub fn find<'a>(domains: &'a [Domain], wanted: &str) -> Result<&'a Domain, Failure> {
    let by_id = |domain: &&Domain| {
        domain.domid.to_string() == wanted
            || (!wanted.is_empty() && domain.uuid.eq_ignore_ascii_case(wanted))
    };
    if let Some(domain) = domains.iter().find(by_id) {
        return Ok(domain);
    }
    let named: Vec<&Domain> = domains
        .iter()
        .filter(|domain| !wanted.is_empty() && domain.name == wanted)
        .collect();
    match named.as_slice() {
        [domain] => Ok(domain),
        [] => Err(Failure::NoDomain {
            wanted: printable(wanted),
            known: join(domains.iter().map(label)),
        }),
        several => Err(Failure::Ambiguous {
            name: printable(wanted),
            domids: join(several.iter().map(|domain| domain.domid.to_string())),
        }),
    }
}

/// A domain, for people.
pub fn label(domain: &Domain) -> String {
    match domain.name.as_str() {
        "" => label_of(domain.domid),
        name => format!("{} (domain {})", printable(name), domain.domid),
    }
}

/// A domain of which nothing but its number is known, for people.
pub fn label_of(domid: DomId) -> String {
    format!("domain {domid}")
}

/// A list for people.
pub fn join(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    match items.is_empty() {
        true => "none".into(),
        false => items.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(domid: u16, name: &str, uuid: &str) -> Domain {
        Domain {
            domid: DomId(domid),
            name: name.into(),
            uuid: uuid.into(),
        }
    }

    fn domains() -> Vec<Domain> {
        vec![
            domain(0, "Domain-0", ""),
            domain(3, "db", "0000abcd-0000-4000-8000-000000000003"),
            domain(7, "", ""),
            domain(8, "3", "0000abcd-0000-4000-8000-000000000008"),
            domain(9, "two", ""),
            domain(10, "two", ""),
        ]
    }

    #[track_caller]
    fn found(wanted: &str) -> u16 {
        find(&domains(), wanted).unwrap().domid.0
    }

    #[test]
    fn a_number_comes_before_a_name() {
        assert_eq!(found("3"), 3);
        assert_eq!(found("db"), 3);
        assert_eq!(found("7"), 7);
        assert_eq!(found("0"), 0);
    }

    #[test]
    fn a_uuid_is_the_same_in_either_case() {
        assert_eq!(found("0000ABCD-0000-4000-8000-000000000008"), 8);
    }

    #[test]
    fn what_names_no_domain_is_told_which_there_are() {
        for wanted in ["", "4", "+3", "03", "d", "db ", "65536", "\x1b[2J"] {
            let failure = find(&domains(), wanted).unwrap_err();
            assert_eq!(failure.status(), 3, "{wanted:?}");
            let text = failure.to_string();
            assert!(text.contains("db (domain 3), domain 7"), "{text}");
            assert!(!text.contains('\x1b'), "{text:?}");
        }
        let failure = find(&[], "db").unwrap_err();
        assert_eq!(
            failure.to_string(),
            "there is no domain 'db'; there are: none"
        );
    }

    #[test]
    fn a_name_that_several_have_names_none() {
        let failure = find(&domains(), "two").unwrap_err();
        assert!(failure.to_string().contains("9, 10"), "{failure}");
        assert_eq!(failure.status(), 1);
    }
}
