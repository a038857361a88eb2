//! `breeze keys`: the folder of keys as one file, encrypted with a passphrase.
//!
//! ```text
//! "BREEZEKY", version (u32)                                numbers are little endian
//! argon2id: memory in KiB (u32), passes (u32), lanes (u32), salt (16 bytes)
//! nonce (12 bytes)
//! AES-256-GCM over JSON {"files": {name: base64}}, authenticating all bytes before it
//! ```

use anyhow::{Context as _, bail, ensure};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use breeze_control_plane::keyring::KeyFolder;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{IsTerminal as _, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};
use zeroize::{Zeroize as _, Zeroizing};

/// The name of the sealed keys in a backup.
pub(crate) const ENTRY: &str = "keys.sealed";
/// Largest file of sealed keys that is read.
pub(crate) const MAX_SEALED_BYTES: u64 = 16 * 1024 * 1024;
const MAX_FILES: usize = 256;
const MAX_FILE_BYTES: u64 = 64 * 1024;

const MAGIC: &[u8; 8] = b"BREEZEKY";
const VERSION: u32 = 1;
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;
const HEADER_BYTES: usize = 8 + 4 + 12 + SALT_BYTES + NONCE_BYTES;
/// About half a second: RFC 9106's second choice with one lane.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// A file that asks for more is refused before it costs anything.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 16;

/// Characters that a new passphrase must have.
const MIN_PASSPHRASE: usize = 12;
const MAX_PASSPHRASE_BYTES: u64 = 4096;
const VARIABLE: &str = "BREEZE_KEYS_PASSPHRASE";

/// The keys of an instance: certification authority, root, signers, master key.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write all keys into one file, encrypted with a passphrase
    ///
    /// Whoever has the file and the passphrase has authority over every agent.
    Export {
        /// Folder of all data and keys
        #[arg(long, value_name = "DIR", env = "BREEZE_DATA")]
        data: PathBuf,
        /// A file that does not exist
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Put exported keys into a data folder that has none
    Import {
        /// The exported file
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Folder of all data and keys
        #[arg(long, value_name = "DIR", env = "BREEZE_DATA")]
        data: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
    },
}

/// Where the passphrase comes from: this file, else the variable `BREEZE_KEYS_PASSPHRASE`, else the
/// terminal. Never an argument, which every user of the machine can read.
#[derive(Debug, clap::Args)]
pub(crate) struct Passphrase {
    /// File with the keys' passphrase in its first line [default: the variable BREEZE_KEYS_PASSPHRASE, else
    /// it is asked for]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Passphrase {
    /// One that encrypts: asked for twice, and not too short.
    pub(crate) fn chosen(&self) -> anyhow::Result<Zeroizing<String>> {
        let given = self.given()?;
        let passphrase = match given {
            Some(given) => given,
            None => {
                let first = prompt("New passphrase of the keys: ")?;
                ensure!(*first == *prompt("The same again: ")?, "the two are not the same");
                first
            }
        };
        ensure!(
            passphrase.chars().count() >= MIN_PASSPHRASE,
            "a passphrase has at least {MIN_PASSPHRASE} characters: it is all that protects the keys"
        );
        Ok(passphrase)
    }

    /// One that decrypts.
    pub(crate) fn existing(&self) -> anyhow::Result<Zeroizing<String>> {
        self.given()?.map_or_else(|| prompt("Passphrase of the keys: "), Ok)
    }

    fn given(&self) -> anyhow::Result<Option<Zeroizing<String>>> {
        if let Some(path) = &self.passphrase_file {
            let mut text = Zeroizing::new(String::new());
            let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            file.take(MAX_PASSPHRASE_BYTES)
                .read_to_string(&mut text)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let line = text.lines().next().unwrap_or_default();
            ensure!(!line.is_empty(), "{} has no passphrase in its first line", path.display());
            return Ok(Some(Zeroizing::new(line.to_owned())));
        }
        let variable = std::env::var(VARIABLE).ok().filter(|value| !value.is_empty());
        Ok(variable.map(Zeroizing::new))
    }
}

fn prompt(text: &str) -> anyhow::Result<Zeroizing<String>> {
    ensure!(
        std::io::stdin().is_terminal(),
        "there is no terminal to ask for the passphrase: give --passphrase-file or set {VARIABLE}"
    );
    Ok(Zeroizing::new(rpassword::prompt_password(text)?))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    files: BTreeMap<String, String>,
}

impl Drop for Contents {
    fn drop(&mut self) {
        self.files.values_mut().for_each(String::zeroize);
    }
}

/// Runs it; `print` gets what was done.
pub(crate) fn run(command: &Command, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    match command {
        Command::Export { data, to, passphrase } => {
            ensure!(!to.exists(), "{} is there already", to.display());
            let sealed = seal_folder(data, &passphrase.chosen()?)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
            file.write_all(&sealed)
                .and_then(|()| file.sync_all())
                .with_context(|| format!("cannot write {}", to.display()))?;
            print(&format!("{}: the keys of {}", to.display(), data.display()));
        }
        Command::Import { from, data, passphrase } => {
            check_none(data)?;
            let file = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
            let mut sealed = Vec::new();
            file.take(MAX_SEALED_BYTES).read_to_end(&mut sealed)?;
            let names = import(&sealed, data, &passphrase.existing()?)
                .with_context(|| format!("cannot import {}", from.display()))?;
            print(&format!("{}: {}", data.join("keys").display(), names.join(", ")));
        }
    }
    Ok(())
}

/// All keys of `data`, encrypted.
pub(crate) fn seal_folder(data: &Path, passphrase: &str) -> anyhow::Result<Vec<u8>> {
    let folder = data.join("keys");
    let list = fs::read_dir(&folder).with_context(|| format!("there are no keys in {}", folder.display()))?;
    let mut contents = Contents { files: BTreeMap::new() };
    for entry in list {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("the name of a key is not text")?;
        // What begins with a dot is a file that was being written.
        if name.starts_with('.') || !entry.file_type()?.is_file() {
            continue;
        }
        ensure!(entry.metadata()?.len() <= MAX_FILE_BYTES, "{name} is too large for a key");
        ensure!(contents.files.len() < MAX_FILES, "{} has more than {MAX_FILES} files", folder.display());
        contents.files.insert(name, STANDARD.encode(&*Zeroizing::new(fs::read(entry.path())?)));
    }
    ensure!(!contents.files.is_empty(), "there are no keys in {}", folder.display());
    seal(&contents, passphrase)
}

fn seal(contents: &Contents, passphrase: &str) -> anyhow::Result<Vec<u8>> {
    let (salt, nonce): ([u8; SALT_BYTES], [u8; NONCE_BYTES]) = (rand::random(), rand::random());
    let mut header = MAGIC.to_vec();
    for number in [VERSION, MEMORY_KIB, PASSES, LANES] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.extend_from_slice(&salt);
    header.extend_from_slice(&nonce);
    let cipher = cipher(passphrase, &salt, [MEMORY_KIB, PASSES, LANES])?;
    let mut body = serde_json::to_vec(contents)?;
    let sealed =
        cipher.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header.as_slice()), &mut body);
    sealed.map_err(|_| anyhow::anyhow!("cannot encrypt"))?;
    header.append(&mut body);
    Ok(header)
}

fn open(sealed: &[u8], passphrase: &str) -> anyhow::Result<Contents> {
    let not_ours = "this is not a file of exported keys";
    let (header, body) = sealed.split_at_checked(HEADER_BYTES).context(not_ours)?;
    ensure!(header.starts_with(MAGIC), not_ours);
    let number = |at: usize| header[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
    let version = number(8);
    ensure!(version == VERSION, "its format is {version}; this version of Breeze reads {VERSION}");
    let cost = [number(12), number(16), number(20)];
    ensure!(
        cost[0] <= MAX_MEMORY_KIB && cost[1] <= MAX_PASSES && cost[2] <= 16,
        "it asks for more work than this version does"
    );
    let salt = &header[24..24 + SALT_BYTES];
    let nonce: [u8; NONCE_BYTES] = header[24 + SALT_BYTES..].try_into().context(not_ours)?;
    let mut body = Zeroizing::new(body.to_vec());
    let plain = cipher(passphrase, salt, cost)?
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(header), &mut body)
        .map_err(|_| anyhow::anyhow!("the passphrase is wrong, or the file was altered"))?;
    serde_json::from_slice(plain).context("its content is not known")
}

fn cipher(passphrase: &str, salt: &[u8], [memory, passes, lanes]: [u32; 3]) -> anyhow::Result<LessSafeKey> {
    let params = Params::new(memory, passes, lanes, Some(32)).map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
    let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| anyhow::anyhow!("bad key"))?;
    Ok(LessSafeKey::new(key))
}

/// Puts the keys into `data`, which must have none: all of them or none. Their names.
pub(crate) fn import(sealed: &[u8], data: &Path, passphrase: &str) -> anyhow::Result<Vec<String>> {
    check_none(data)?;
    let contents = open(sealed, passphrase)?;
    ensure!(contents.files.len() <= MAX_FILES, "it has more than {MAX_FILES} keys");
    let staging = data.join(".importing-keys");
    let put = || -> anyhow::Result<()> {
        let folder = KeyFolder::open(&staging)?;
        for (name, text) in &contents.files {
            let plain = !name.starts_with('.') && !name.contains(['/', '\0']) && name.len() <= 128;
            ensure!(plain, "{name:?} is no name of a key");
            folder.save(name, &Zeroizing::new(STANDARD.decode(text).context("a key is not base64")?))?;
        }
        // Over an empty folder at most: anything else is refused by the system.
        fs::rename(staging.join("keys"), data.join("keys")).context("there are keys already")?;
        File::open(data)?.sync_all()?;
        Ok(())
    };
    DirBuilder::new().recursive(true).mode(0o700).create(data)?;
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    let done = put();
    let _gone = fs::remove_dir_all(&staging);
    done?;
    Ok(contents.files.keys().cloned().collect())
}

fn check_none(data: &Path) -> anyhow::Result<()> {
    let folder = data.join("keys");
    if let Ok(mut list) = fs::read_dir(&folder)
        && list.next().is_some()
    {
        bail!("there are keys in {} already: they are not overwritten", folder.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const PASSPHRASE: &str = "correct horse battery";

    fn folder_with_keys() -> tempfile::TempDir {
        let data = tempfile::tempdir().expect("a folder");
        let keys = KeyFolder::open(data.path()).expect("made");
        keys.save("master.key", &[7; 32]).expect("saved");
        keys.save("ca.pem", b"a certificate").expect("saved");
        fs::write(data.path().join("keys/.half.new"), "x").expect("written");
        data
    }

    #[test]
    fn exported_keys_come_back_private_and_are_not_overwritten() {
        let from = folder_with_keys();
        let sealed = seal_folder(from.path(), PASSPHRASE).expect("sealed");
        assert!(!sealed.windows(13).any(|bytes| bytes == b"a certificate"));
        let to = tempfile::tempdir().expect("a folder");
        let wrong = import(&sealed, to.path(), "correct horse batterz").expect_err("wrong").to_string();
        assert!(wrong.contains("passphrase is wrong"), "{wrong}");
        assert_eq!(fs::read_dir(to.path()).expect("there").count(), 0, "nothing was made");
        assert_eq!(import(&sealed, to.path(), PASSPHRASE).expect("imports"), ["ca.pem", "master.key"]);
        assert_eq!(fs::read(to.path().join("keys/master.key")).expect("there"), [7; 32]);
        for (path, mode) in [("keys", 0o700), ("keys/master.key", 0o600)] {
            let found = fs::metadata(to.path().join(path)).expect("there").permissions().mode() & 0o777;
            assert_eq!(found, mode, "{path}");
        }
        let again = import(&sealed, to.path(), PASSPHRASE).expect_err("there are some").to_string();
        assert!(again.contains("not overwritten"), "{again}");
    }

    #[test]
    fn whatever_is_altered_is_refused() {
        let sealed = seal_folder(folder_with_keys().path(), PASSPHRASE).expect("sealed");
        let refuse = |bytes: &[u8]| format!("{:#}", open(bytes, PASSPHRASE).err().expect("refused"));
        let altered = |at: usize, value: u8| {
            let mut bytes = sealed.clone();
            bytes[at] = value;
            bytes
        };
        assert!(refuse(&sealed[..20]).contains("not a file"));
        assert!(refuse(&altered(0, b'X')).contains("not a file"));
        assert!(refuse(&altered(8, 9)).contains("format is 9"));
        // Memory beyond the limit is not even tried.
        assert!(refuse(&altered(15, 255)).contains("more work"));
        let last = sealed.len() - 1;
        for at in [24, 40, HEADER_BYTES, last] {
            assert!(refuse(&altered(at, sealed[at] ^ 1)).contains("passphrase is wrong"), "byte {at}");
        }
    }

    #[test]
    fn a_short_passphrase_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("passphrase");
        fs::write(&path, "short\n").expect("written");
        let passphrase = Passphrase { passphrase_file: Some(path.clone()) };
        assert!(passphrase.chosen().expect_err("short").to_string().contains("at least 12"));
        fs::write(&path, "long enough, surely\nand a second line\n").expect("written");
        assert_eq!(*passphrase.chosen().expect("long"), "long enough, surely");
    }
}
