//! Words that many devices share (systems, versions, models, tags, tenants), kept once.
//! Columns hold their numbers; a test on such a column is decided once a word, not once a device.

use std::{collections::HashMap, sync::Arc};

/// Number of a word in its dictionary. 0 is the empty word.
pub(super) type Symbol = u32;
/// The empty word.
pub(super) const NONE: Symbol = 0;

/// Counted words: one that no device uses any more makes room, so that agents which invent new
/// versions for ever do not grow it.
#[derive(Debug)]
pub(super) struct Dictionary {
    by_text: HashMap<Arc<str>, Symbol>,
    entries: Vec<Entry>,
    free: Vec<Symbol>,
}

#[derive(Debug)]
struct Entry {
    text: Arc<str>,
    folded: Arc<str>,
    uses: u32,
}

impl Default for Dictionary {
    fn default() -> Self {
        let empty: Arc<str> = Arc::from("");
        let entry = Entry { text: Arc::clone(&empty), folded: empty, uses: 1 };
        Self { by_text: HashMap::new(), entries: vec![entry], free: Vec::new() }
    }
}

impl Dictionary {
    pub(super) fn text(&self, symbol: Symbol) -> &str {
        self.entries.get(symbol as usize).map_or("", |entry| &entry.text)
    }

    /// In the form that is compared; see [`fold`].
    pub(super) fn folded(&self, symbol: Symbol) -> &str {
        self.entries.get(symbol as usize).map_or("", |entry| &entry.folded)
    }

    /// `None` for the empty word.
    pub(super) fn some(&self, symbol: Symbol) -> Option<String> {
        (symbol != NONE).then(|| self.text(symbol).to_owned())
    }

    /// One above the highest symbol.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Counts one more use of `text`.
    pub(super) fn acquire(&mut self, text: &str) -> Symbol {
        if text.is_empty() {
            return NONE;
        }
        if let Some(symbol) = self.by_text.get(text) {
            self.entries[*symbol as usize].uses += 1;
            return *symbol;
        }
        let text: Arc<str> = Arc::from(text);
        let folded = fold(&text).map_or_else(|| Arc::clone(&text), Arc::from);
        let entry = Entry { text: Arc::clone(&text), folded, uses: 1 };
        let symbol = match self.free.pop() {
            Some(symbol) => {
                self.entries[symbol as usize] = entry;
                symbol
            }
            None => {
                self.entries.push(entry);
                Symbol::try_from(self.entries.len() - 1).expect("fewer words than devices have fields")
            }
        };
        self.by_text.insert(text, symbol);
        symbol
    }

    /// Counts one use less.
    pub(super) fn release(&mut self, symbol: Symbol) {
        if symbol == NONE {
            return;
        }
        let entry = &mut self.entries[symbol as usize];
        entry.uses -= 1;
        if entry.uses == 0 {
            self.by_text.remove(&entry.text);
            entry.text = Arc::from("");
            entry.folded = Arc::clone(&entry.text);
            self.free.push(symbol);
        }
    }

    /// Puts `text` in the place of the word in `slot`.
    pub(super) fn replace(&mut self, slot: &mut Symbol, text: &str) {
        if self.text(*slot) != text {
            self.release(*slot);
            *slot = self.acquire(text);
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let words: usize = self.entries.iter().map(|entry| entry.text.len() + entry.folded.len() + 32).sum();
        words + self.entries.capacity() * size_of::<Entry>() + self.by_text.capacity() * 24
    }
}

/// Organizations and sites: an id with a name that may become known later. Never forgotten: there
/// are few beside the devices.
#[derive(Debug, Default)]
pub(super) struct Named {
    by_id: HashMap<[u8; 16], Symbol>,
    entries: Vec<NamedEntry>,
}

#[derive(Debug)]
pub(super) struct NamedEntry {
    pub(super) id: [u8; 16],
    pub(super) name: Option<Box<str>>,
    pub(super) folded: Box<str>,
}

impl Named {
    pub(super) fn symbol(&mut self, id: [u8; 16]) -> Symbol {
        *self.by_id.entry(id).or_insert_with(|| {
            self.entries.push(NamedEntry { id, name: None, folded: Box::from("") });
            Symbol::try_from(self.entries.len() - 1).expect("fewer tenants than 2^32")
        })
    }

    pub(super) fn find(&self, id: &[u8; 16]) -> Option<Symbol> {
        self.by_id.get(id).copied()
    }

    pub(super) fn entry(&self, symbol: Symbol) -> &NamedEntry {
        &self.entries[symbol as usize]
    }

    pub(super) fn entries(&self) -> &[NamedEntry] {
        &self.entries
    }

    pub(super) fn name(&mut self, id: [u8; 16], name: &str) {
        let symbol = self.symbol(id);
        let entry = &mut self.entries[symbol as usize];
        entry.folded = fold(name).unwrap_or_else(|| name.to_owned()).into_boxed_str();
        entry.name = Some(Box::from(name));
    }
}

/// Lower case of exactly the same length, so that places in the folded text are places in the text;
/// the few letters whose lower case is longer or shorter stay as they are. `None` if nothing changes.
pub(super) fn fold(text: &str) -> Option<String> {
    let changes = |c: char| fold_char(c) != c;
    text.chars().any(changes).then(|| text.chars().map(fold_char).collect())
}

fn fold_char(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(single), None) if single.len_utf8() == c.len_utf8() => single,
        (Some(_) | None, _) => c,
    }
}

/// As [`fold`], owned.
pub(super) fn folded(text: &str) -> String {
    fold(text).unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_shared_counted_and_make_room() {
        let mut dictionary = Dictionary::default();
        let first = dictionary.acquire("Debian 12");
        assert_eq!(dictionary.acquire("Debian 12"), first);
        assert_eq!((dictionary.text(first), dictionary.folded(first)), ("Debian 12", "debian 12"));
        dictionary.release(first);
        assert_eq!(dictionary.text(first), "Debian 12");
        dictionary.release(first);
        assert_eq!(dictionary.acquire("Debian 13"), first, "the place is used again");
        assert_eq!(dictionary.acquire(""), NONE);
        assert_eq!(dictionary.len(), 2);
    }

    proptest! {
        #[test]
        fn folding_keeps_lengths_and_is_idempotent(text in "\\PC{0,40}") {
            let once = folded(&text);
            prop_assert_eq!(once.len(), text.len());
            prop_assert_eq!(fold(&once), None);
        }
    }
}
