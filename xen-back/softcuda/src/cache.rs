//! Compiled code that was made before, in this process or by another: kept in memory, and on disk where
//! cuInit said so. What is read from disk is checked before it is believed, owner and contents; a cache
//! that cannot be read or written costs time, never a result or an error.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// Bytes kept in memory.
const MEMORY_BYTES: usize = 64 << 20;
/// Bytes of one entry that are still kept on disk.
const MAX_ENTRY: u64 = 256 << 20;
/// How a file of the cache begins.
const MAGIC: &[u8; 8] = b"softcud1";
/// Bytes of a SHA-256 hash.
const HASH: usize = 32;
/// What a file's name ends in when it is whole, and before.
const WHOLE: &str = "code";
const UNFINISHED: &str = "unfinished";
/// Files older than this that are still not whole were left by a process that died.
const LEFT_AFTER: Duration = Duration::from_secs(3600);

/// What compiled code was made of: a hash of all that decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key([u8; HASH]);

impl Key {
    pub(crate) fn new<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    fn file_name(&self) -> String {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}.{WHOLE}")
    }
}

/// A folder of compiled code.
#[derive(Debug)]
struct Disk {
    folder: PathBuf,
    /// Bytes that its files may have together.
    limit: u64,
}

static DISK: OnceLock<Disk> = OnceLock::new();

/// The entries used last, the newest first.
static MEMORY: Mutex<VecDeque<(Key, Arc<[u8]>)>> = Mutex::new(VecDeque::new());

/// Keeps code in a folder from now on. Only the first call counts.
pub(crate) fn use_folder(folder: PathBuf, limit: u64) {
    let _ = DISK.set(Disk { folder, limit });
}

/// What was kept under a key.
pub(crate) fn find<T: DeserializeOwned>(key: &Key) -> Option<T> {
    let in_memory = {
        let mut memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
        let place = memory.iter().position(|(other, _)| other == key);
        let entry = place.and_then(|place| memory.remove(place));
        entry.map(|entry| {
            let bytes = Arc::clone(&entry.1);
            memory.push_front(entry);
            bytes
        })
    };
    let bytes = match in_memory {
        Some(bytes) => bytes,
        None => {
            let bytes: Arc<[u8]> = DISK.get()?.read(key)?.into();
            remember(key, Arc::clone(&bytes));
            bytes
        }
    };
    postcard::from_bytes(&bytes).ok()
}

/// Keeps something under a key.
pub(crate) fn keep<T: Serialize>(key: &Key, value: &T) {
    let Ok(bytes) = postcard::to_stdvec(value) else {
        return;
    };
    if let Some(disk) = DISK.get()
        && let Err(error) = disk.write(key, &bytes)
    {
        tracing::debug!(%error, folder = %disk.folder.display(), "compiled code was not kept on disk");
    }
    remember(key, bytes.into());
}

fn remember(key: &Key, bytes: Arc<[u8]>) {
    let mut memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    memory.retain(|(other, _)| other != key);
    memory.push_front((*key, bytes));
    let mut total = 0;
    memory.retain(|(_, bytes)| {
        total += bytes.len();
        total <= MEMORY_BYTES
    });
}

/// Whether a file or folder is this user's and nobody else can have written to it.
fn is_ours(metadata: &fs::Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0
}

impl Disk {
    fn has_good_folder(&self) -> bool {
        fs::symlink_metadata(&self.folder).is_ok_and(|folder| folder.is_dir() && is_ours(&folder))
    }

    /// The contents kept under a key, if they are whole and ours.
    fn read(&self, key: &Key) -> Option<Vec<u8>> {
        if !self.has_good_folder() {
            return None;
        }
        let path = self.folder.join(key.file_name());
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        let file = match file {
            Ok(file) => file,
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "no compiled code there");
                return None;
            }
        };
        let contents = Self::contents(&file, key);
        match contents {
            Ok(Some(contents)) => {
                // What is used stays longest; if the time cannot be set, it does not.
                let _ = file.set_modified(SystemTime::now());
                Some(contents)
            }
            Ok(None) => {
                tracing::debug!(path = %path.display(), "compiled code is damaged or not ours");
                None
            }
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "compiled code was not read");
                None
            }
        }
    }

    fn contents(file: &File, key: &Key) -> io::Result<Option<Vec<u8>>> {
        let metadata = file.metadata()?;
        if !metadata.is_file() || !is_ours(&metadata) || metadata.len() > MAX_ENTRY {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        file.take(MAX_ENTRY).read_to_end(&mut bytes)?;
        let Some((magic, rest)) = bytes.split_at_checked(MAGIC.len()) else {
            return Ok(None);
        };
        let Some((hash, contents)) = rest.split_at_checked(HASH) else {
            return Ok(None);
        };
        let good = magic == MAGIC && hash == Self::hash(key, contents);
        Ok(good.then(|| contents.to_vec()))
    }

    /// A file's hash: of what is in it, and what it is for.
    fn hash(key: &Key, contents: &[u8]) -> [u8; HASH] {
        Key::new([&key.0[..], contents]).0
    }

    fn write(&self, key: &Key, contents: &[u8]) -> io::Result<()> {
        static FILES: AtomicU64 = AtomicU64::new(0);
        let bytes = (MAGIC.len() + HASH + contents.len()) as u64;
        if bytes > self.limit.min(MAX_ENTRY) {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        if !self.has_good_folder() {
            return Err(io::Error::other(
                "others may write to the folder, or it is not this user's",
            ));
        }
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}.{UNFINISHED}", std::process::id());
        let unfinished = self.folder.join(name);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)
            .and_then(|mut file| {
                file.write_all(MAGIC)?;
                file.write_all(&Self::hash(key, contents))?;
                file.write_all(contents)
            })
            .and_then(|()| fs::rename(&unfinished, self.folder.join(key.file_name())));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        self.make_room()
    }

    /// Removes the files used longest ago until the rest is within the limit.
    fn make_room(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else {
                continue;
            };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let ends_in = |end| path.extension().is_some_and(|extension| extension == end);
            if ends_in(WHOLE) {
                files.push((used, metadata.len(), path));
            } else if ends_in(UNFINISHED)
                && used.elapsed().is_ok_and(|elapsed| elapsed > LEFT_AFTER)
            {
                remove(&path);
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total <= self.limit {
                break;
            }
            remove(&path);
            total -= bytes;
        }
        Ok(())
    }
}

/// Removes a file that another process may have removed already.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(%error, path = %path.display(), "old compiled code was not removed");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A folder that goes away.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("softcuda-cache-{name}-{}", std::process::id());
            let folder = Self(std::env::temp_dir().join(name));
            let _ = fs::remove_dir_all(&folder.0);
            folder
        }

        fn disk(&self, limit: u64) -> Disk {
            Disk {
                folder: self.0.clone(),
                limit,
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn key(name: &str) -> Key {
        Key::new([name.as_bytes()])
    }

    #[test]
    fn parts_of_keys_do_not_run_together() {
        assert_ne!(Key::new([&b"ab"[..], b"c"]), Key::new([&b"a"[..], b"bc"]));
        assert_ne!(Key::new([&b"ab"[..]]), Key::new([&b"ab"[..], b""]));
    }

    #[test]
    fn what_is_written_is_read_and_belongs_to_its_user() {
        let folder = Folder::new("write");
        let disk = folder.disk(1 << 20);
        assert_eq!(disk.read(&key("a")), None);
        disk.write(&key("a"), b"code of a").unwrap();
        assert_eq!(disk.read(&key("a")).as_deref(), Some(&b"code of a"[..]));
        assert_eq!(disk.read(&key("b")), None);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.0), 0o700);
        assert_eq!(mode(&folder.0.join(key("a").file_name())), 0o600);
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }

    #[test]
    fn damaged_files_are_ignored_and_written_again() {
        let folder = Folder::new("damage");
        let disk = folder.disk(1 << 20);
        disk.write(&key("a"), b"code of a").unwrap();
        let path = folder.0.join(key("a").file_name());
        let whole = fs::read(&path).unwrap();
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            assert_eq!(disk.read(&key("a")), None, "{end} bytes");
        }
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 0x10;
            fs::write(&path, &other).unwrap();
            assert_eq!(disk.read(&key("a")), None, "byte {at}");
        }
        // Another key's file under this key's name.
        disk.write(&key("b"), b"code of b").unwrap();
        fs::copy(folder.0.join(key("b").file_name()), &path).unwrap();
        assert_eq!(disk.read(&key("a")), None);
        disk.write(&key("a"), b"code of a").unwrap();
        assert_eq!(disk.read(&key("a")).as_deref(), Some(&b"code of a"[..]));
    }

    #[test]
    fn what_others_could_have_written_is_not_read() {
        let folder = Folder::new("others");
        let disk = folder.disk(1 << 20);
        disk.write(&key("a"), b"code of a").unwrap();
        let path = folder.0.join(key("a").file_name());
        for mode in [0o620, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(disk.read(&key("a")), None, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(disk.read(&key("a")).is_some());
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o770)).unwrap();
        assert_eq!(disk.read(&key("a")), None);
        assert!(disk.write(&key("b"), b"code of b").is_err());
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o700)).unwrap();
        let elsewhere = folder.0.join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert_eq!(disk.read(&key("a")), None);
    }

    #[test]
    fn the_files_used_longest_ago_make_room() {
        let folder = Folder::new("room");
        let disk = folder.disk(4 * (MAGIC.len() + HASH + 100) as u64);
        let start = SystemTime::now() - Duration::from_secs(1000);
        for name in ["a", "b", "c", "d"] {
            disk.write(&key(name), &[1; 100]).unwrap();
        }
        for (age, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let file = File::open(folder.0.join(key(name).file_name())).unwrap();
            file.set_modified(start + Duration::from_secs(age as u64))
                .unwrap();
        }
        // It is used now.
        assert!(disk.read(&key("a")).is_some());
        disk.write(&key("e"), &[1; 100]).unwrap();
        let left = ["a", "b", "c", "d", "e"].map(|name| disk.read(&key(name)).is_some());
        assert_eq!(left, [true, false, true, true, true]);
        // What is larger than all of it is not kept, and costs the others nothing.
        disk.write(&key("f"), &[1; 10_000]).unwrap();
        assert!(disk.read(&key("f")).is_none() && disk.read(&key("e")).is_some());
    }

    #[test]
    fn a_process_makes_things_once() {
        let value = (vec![1_u32, 2, 3], "text".to_owned());
        assert_eq!(find::<(Vec<u32>, String)>(&key("memory")), None);
        keep(&key("memory"), &value);
        assert_eq!(find(&key("memory")), Some(value));
    }
}
