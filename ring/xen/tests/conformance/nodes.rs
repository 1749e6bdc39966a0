//! XenStore between two domains. All else about it has a suite of its own, on more domains than
//! two; this shows that the domains of a run see of each other what they should.

use rustix::io::Errno;
use xen::store::{Permission, StoreError};

use xen::DomId;

use super::{Check, Half, Outcome, ensure, ensure_fails, scratch_folder};

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("relative paths are the domain's own", reader, writer),
        Check::new("nodes are seen by whom they are for", keeper, visitor),
    ]
}

/// Where a check may write: in the folder that the session made.
fn scratch(half: &Half, peer: DomId) -> String {
    format!("{}/{}/scratch", scratch_folder(peer), half.number)
}

fn writer(half: &Half) -> Outcome {
    let relative = scratch(half, half.peer());
    half.store().write(&relative, "mine")?;
    let absolute = format!("/local/domain/{}/{relative}", half.me());
    ensure!(
        half.store().read(&absolute)?.as_deref() == Some("mine"),
        "{relative} is not {absolute}"
    );
    half.tell("written", "")?;
    half.hear("read")?;
    Ok(())
}

fn reader(half: &Half) -> Outcome {
    half.hear("written")?;
    let path = format!("/local/domain/{}/{}", half.peer(), scratch(half, half.me()));
    let value = half.store().read(&path)?;
    ensure!(value.as_deref() == Some("mine"), "read {value:?}");
    half.tell("read", "")
}

fn keeper(half: &Half) -> Outcome {
    let path = format!("/local/domain/{}/{}", half.me(), scratch(half, half.peer()));
    half.store().write(&path, "secret")?;
    half.store()
        .set_permissions(&path, &[Permission::none(half.me())])?;
    half.tell("kept", &path)?;
    half.hear("refused")?;
    half.store().set_permissions(
        &path,
        &[Permission::none(half.me()), Permission::read(half.peer())],
    )?;
    half.tell("shown", "")?;
    half.hear("seen")?;
    Ok(())
}

/// A guest, as a privileged domain sees everything.
fn visitor(half: &Half) -> Outcome {
    let path = half.hear("kept")?;
    let refused = |result: Result<(), StoreError>| -> Outcome {
        ensure_fails!(
            result,
            StoreError::Refused {
                errno: Errno::ACCESS,
                ..
            },
            "{path}"
        );
        Ok(())
    };
    refused(half.store().read(&path).map(drop))?;
    refused(half.store().write(&path, "mine"))?;
    half.tell("refused", "")?;
    half.hear("shown")?;
    let value = half.store().read(&path)?;
    ensure!(value.as_deref() == Some("secret"), "read {value:?}");
    refused(half.store().write(&path, "mine"))?;
    refused(half.store().write("device/vgpu/99", "mine"))?;
    half.tell("seen", "")
}
