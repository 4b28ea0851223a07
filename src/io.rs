//! A socket that writes small things with one plain call, and files that are read and written whole.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, IoSlice, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use zeroize::Zeroizing;

/// The most bytes that are copied together rather than written from where they lie.
const SMALL: usize = 1024;

/// A TCP stream on which several small slices are put together and sent at once: a vectored write of a head and a short
/// body costs the kernel more than the copy does.
pub struct Socket(pub TcpStream);

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.0);
        if let [only] = bufs {
            return stream.poll_write(cx, only);
        }
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total > SMALL {
            return stream.poll_write_vectored(cx, bufs);
        }
        let (mut together, mut filled) = ([0; SMALL], 0);
        for buf in bufs {
            together[filled..filled + buf.len()].copy_from_slice(buf);
            filled += buf.len();
        }
        stream.poll_write(cx, &together[..total])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A file's bytes, and whether everybody on the machine may read them.
pub struct Contents {
    /// The bytes, wiped when they are dropped: they may be a secret.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Whether everybody on the machine may read the file.
    pub world_readable: bool,
}

impl Contents {
    /// What to say of a file that holds a secret and was read from `path`, when everybody may read it.
    ///
    /// # Errors
    /// When everybody may; names the file and the mend.
    pub fn must_be_private(&self, path: &Path) -> Result<(), String> {
        let path = path.display();
        let message = || format!("{path} holds a secret and everybody on this machine may read it: chmod o-r {path}");
        if self.world_readable { Err(message()) } else { Ok(()) }
    }
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// Says what is wrong with the file, without naming it.
pub fn read_file(path: &Path, limit: u64) -> Result<Contents, String> {
    let attempt = || -> io::Result<(Vec<u8>, bool)> {
        let file = File::open(path)?;
        // Of the file that was opened, whatever its name has come to mean since.
        let mode = file.metadata()?.permissions().mode();
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        Ok((bytes, mode & 0o004 != 0))
    };
    let (bytes, world_readable) = attempt().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission to read it is denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => format!("it cannot be read: {error}"),
    })?;
    let bytes = Zeroizing::new(bytes);
    if bytes.len() as u64 > limit {
        return Err(format!("it is larger than {} KiB", limit >> 10));
    }
    Ok(Contents { bytes, world_readable })
}

/// Which file lies at a path: another one, the same one written to, and one that others may read now, has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    file: (u64, u64),
    written: (i64, i64),
    /// Also when its mode was changed, which mends a file that could not be read.
    changed: (i64, i64),
    bytes: u64,
}

impl Stamp {
    /// Of the file that is there now. Taken before the file is read, so that what is written meanwhile is seen later on.
    ///
    /// # Errors
    /// When there is none, or it cannot be asked.
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            file: (found.dev(), found.ino()),
            written: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            bytes: found.len(),
        })
    }
}

/// Puts a file there whole or not at all, and on disk before this returns. It has the mode and the owner of the one that it
/// takes the place of, and otherwise mode 0600. Nobody else may be doing the same.
///
/// # Errors
/// When the disk refuses, or the owner cannot be kept.
pub fn replace_file(path: &Path, content: &[u8], before: Option<&Metadata>) -> io::Result<()> {
    let mut half = path.as_os_str().to_owned();
    half.push(".new");
    let half = PathBuf::from(half);
    // What a crash may have left of another try.
    match fs::remove_file(&half) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half)?;
    let mut write = || -> io::Result<()> {
        if let Some(before) = before {
            let made = file.metadata()?;
            if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
                fchown(&file, Some(before.uid()), Some(before.gid()))?;
            }
            file.set_permissions(before.permissions())?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&half, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&half)))?;
    // A renamed file is only found after a power cut if its folder was brought to disk as well.
    File::open(folder_of(path))?.sync_all()
}

/// The folder that a file is in, by a name that can be opened.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
