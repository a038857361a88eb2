//! The state at one moment, taken while it is in use, and put into a new folder.
//!
//! Rows are written out rather than files copied: the image does not depend on what the engine does
//! to its files meanwhile, nor on its version.
//!
//! ```text
//! "breeze-state-image 1\n"
//! for each row:  keyspace (1 byte), length of key, key, length of value, value   lengths: u32 little endian
//! 255, number of rows (u64 little endian)
//! ```

use super::{
    Config, EmbeddedState,
    engine::{Engine, Space, failed},
    folder::Folder,
    readers::Slot,
    writer::Call,
};
use crate::state::StateError;
use fjall::{Readable as _, Snapshot};
use std::{
    fmt,
    io::{self, Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

const HEADER: &[u8] = b"breeze-state-image 1\n";
const END: u8 = 255;
/// Rows between two looks whether the engine is still the one that was asked.
const CHECK_ROWS: u64 = 4096;
/// What a restored row may weigh at most, in bytes: far above what any row has.
const MAX_PART_BYTES: u32 = 256 * 1024 * 1024;
/// Bytes of rows that are restored in one batch.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Writes wait until this is thawed, dropped, or has been held for too long.
#[derive(Debug)]
pub struct Frozen {
    image: StateImage,
    release: oneshot::Sender<()>,
}

/// All rows of one moment.
pub struct StateImage {
    engine: Arc<Engine>,
    slot: Arc<Slot>,
    snapshot: Snapshot,
}

impl fmt::Debug for StateImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateImage").finish_non_exhaustive()
    }
}

/// What the writer is asked to hold for.
#[derive(Debug)]
pub(super) struct Freeze {
    pub(super) at_most: Duration,
    pub(super) reply: oneshot::Sender<Result<Frozen, StateError>>,
}

impl EmbeddedState {
    /// Holds all writes back, for `at_most` this long, and gives what is stored then. Reads go on.
    ///
    /// # Errors
    /// [`StateError::Unavailable`] while the engine is being reopened or is closed.
    pub async fn freeze(&self, at_most: Duration) -> Result<Frozen, StateError> {
        self.write(|reply| Call::Freeze(Freeze { at_most, reply })).await
    }
}

impl Frozen {
    /// Lets writes go on.
    ///
    /// # Errors
    /// [`StateError::Unavailable`] when they did so already, since it took too long: what was done in
    /// the belief that they were held is void.
    pub fn thaw(self) -> Result<StateImage, StateError> {
        let held = self.release.send(());
        held.map_err(|()| StateError::Unavailable("writes were held back too long and went on".into()))?;
        Ok(self.image)
    }
}

/// The frozen state and what ends it, for the writer.
pub(super) fn frozen(engine: &Arc<Engine>, slot: &Arc<Slot>) -> (Frozen, oneshot::Receiver<()>) {
    let image = StateImage { engine: Arc::clone(engine), slot: Arc::clone(slot), snapshot: engine.snapshot() };
    let (release, released) = oneshot::channel();
    (Frozen { image, release }, released)
}

impl StateImage {
    /// Writes all rows; their number. Blocks.
    ///
    /// # Errors
    /// Those of `out`, and of the engine: also when it was closed or reopened meanwhile.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<u64> {
        out.write_all(HEADER)?;
        let mut rows = 0_u64;
        for space in Space::ALL {
            for entry in self.snapshot.iter(self.engine.space(space)) {
                if rows.is_multiple_of(CHECK_ROWS) {
                    self.check()?;
                }
                let (key, value) = entry.into_inner().map_err(|error| io::Error::other(failed(error)))?;
                out.write_all(&[space as u8])?;
                for part in [&*key, &*value] {
                    let len = u32::try_from(part.len()).map_err(io::Error::other)?;
                    out.write_all(&len.to_le_bytes())?;
                    out.write_all(part)?;
                }
                rows += 1;
            }
        }
        out.write_all(&[END])?;
        out.write_all(&rows.to_le_bytes())?;
        Ok(rows)
    }

    /// The engine must not be held on to once it is closed or to be opened anew.
    fn check(&self) -> io::Result<()> {
        match self.slot.engine() {
            Ok(engine) if Arc::ptr_eq(&engine, &self.engine) => Ok(()),
            Ok(_) => Err(io::Error::other("storage was reopened meanwhile")),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// Makes the state of an image in `folder`, which must hold none; the number of rows. Blocks.
///
/// # Errors
/// [`StateError::Corrupt`] when the image is not whole or of no known format, [`StateError::Invalid`]
/// when there is a state already, [`StateError::Unavailable`] for the disk's errors.
pub fn restore(folder: &Path, image: &mut dyn Read) -> Result<u64, StateError> {
    if folder.exists() {
        return Err(StateError::Invalid(format!("{} is there already", folder.display())));
    }
    let mut header = [0; HEADER.len()];
    image.read_exact(&mut header).map_err(unreadable)?;
    if header != *HEADER {
        return Err(StateError::Corrupt("the image of the state is of no known format".into()));
    }
    let folder = Folder::lock(folder)?;
    let engine = Engine::open(&folder, &Config::default())?;
    let mut rows = 0_u64;
    loop {
        let mut batch = engine.unsynced_batch();
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            let [space] = array(image)?;
            if space == END {
                batch.commit().map_err(failed)?;
                if u64::from_le_bytes(array(image)?) != rows {
                    return Err(StateError::Corrupt("rows of the image of the state are missing".into()));
                }
                engine.sync()?;
                return Ok(rows);
            }
            let space = Space::ALL.get(usize::from(space)).copied();
            let space = space.ok_or_else(|| StateError::Corrupt("a row is of no known keyspace".into()))?;
            let (key, value) = (part(image)?, part(image)?);
            bytes += key.len() + value.len() + 64;
            batch.insert(engine.space(space), key, value);
            rows += 1;
        }
        batch.commit().map_err(failed)?;
        engine.wait_for_workers()?;
    }
}

fn array<const N: usize>(image: &mut dyn Read) -> Result<[u8; N], StateError> {
    let mut bytes = [0; N];
    image.read_exact(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

fn part(image: &mut dyn Read) -> Result<Vec<u8>, StateError> {
    let len = u32::from_le_bytes(array(image)?);
    if len > MAX_PART_BYTES {
        return Err(StateError::Corrupt(format!("a row of {len} bytes")));
    }
    let mut bytes = Vec::new();
    let read = image.take(u64::from(len)).read_to_end(&mut bytes).map_err(unreadable)?;
    if read as u64 != u64::from(len) {
        return Err(StateError::Corrupt("the image of the state is cut short".into()));
    }
    Ok(bytes)
}

fn unreadable(error: io::Error) -> StateError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        StateError::Corrupt("the image of the state is cut short".into())
    } else {
        StateError::Unavailable(format!("cannot read the image of the state: {error}"))
    }
}
