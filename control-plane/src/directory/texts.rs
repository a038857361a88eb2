//! What is searched of a device, in one piece of text: a search looks through one string a device.

use super::dictionary::fold;
use breeze_proto::limits::MAX_TEXT_BYTES;

/// The parts, in their order in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Hostname,
    DisplayName,
    LastUser,
    PrimaryIp,
    PublicIp,
    SerialNumber,
    /// All tags; only searched.
    Tags,
}

pub(super) const PARTS: usize = 7;
/// Bytes of all tags of a device that are searched.
const MAX_TAGS_BYTES: usize = 8 * 1024;

/// Parts separated by line feeds, of which they have none themselves.
#[derive(Debug, Default, Clone)]
pub(super) struct Texts {
    text: Box<str>,
    /// [`fold`] of `text`, of equal length; `None` if the same.
    folded: Option<Box<str>>,
    ends: [u16; PARTS],
}

impl Texts {
    pub(super) fn new(parts: [&str; PARTS]) -> Self {
        let mut text = String::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
        let mut ends = [0; PARTS];
        for (index, part) in parts.into_iter().enumerate() {
            let limit = if index == Part::Tags as usize { MAX_TAGS_BYTES } else { MAX_TEXT_BYTES };
            let part = &part[..part.floor_char_boundary(limit)];
            if index > 0 {
                text.push('\n');
            }
            // Host names and the like come from agents, which are not trusted to send no line feeds.
            text.extend(part.chars().map(|c| if c.is_control() { ' ' } else { c }));
            ends[index] = u16::try_from(text.len()).unwrap_or(u16::MAX);
        }
        let folded = fold(&text).map(String::into_boxed_str);
        Self { text: text.into_boxed_str(), folded, ends }
    }

    /// With one part in another's place; `None` if it is the same already.
    pub(super) fn with(&self, part: Part, value: &str) -> Option<Self> {
        if self.part(part) == value {
            return None;
        }
        let mut parts = ALL.map(|part| self.part(part));
        parts[part as usize] = value;
        Some(Self::new(parts))
    }

    pub(super) fn part(&self, part: Part) -> &str {
        self.slice(&self.text, part)
    }

    pub(super) fn folded_part(&self, part: Part) -> &str {
        self.slice(self.folded(), part)
    }

    /// Everything, to be searched.
    pub(super) fn folded(&self) -> &str {
        self.folded.as_deref().unwrap_or(&self.text)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.text.len() + self.folded.as_ref().map_or(0, |folded| folded.len())
    }

    fn slice<'a>(&self, text: &'a str, part: Part) -> &'a str {
        let index = part as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize + 1 };
        text.get(start..self.ends[index] as usize).unwrap_or("")
    }
}

const ALL: [Part; PARTS] = [
    Part::Hostname,
    Part::DisplayName,
    Part::LastUser,
    Part::PrimaryIp,
    Part::PublicIp,
    Part::SerialNumber,
    Part::Tags,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_also_beside_letters_of_odd_case() {
        let texts = Texts::new(["WEB-İ1", "Ärger\n2", "bob", "10.0.0.1", "", "SN1", "a b"]);
        assert_eq!(texts.part(Part::Hostname), "WEB-İ1");
        assert_eq!(texts.part(Part::DisplayName), "Ärger 2");
        assert_eq!(texts.folded_part(Part::DisplayName), "ärger 2");
        assert_eq!(texts.part(Part::PublicIp), "");
        assert_eq!(texts.folded_part(Part::SerialNumber), "sn1");
        let changed = texts.with(Part::LastUser, "alice").expect("another user");
        assert_eq!((changed.part(Part::LastUser), changed.part(Part::Tags)), ("alice", "a b"));
        assert!(changed.with(Part::LastUser, "alice").is_none());
    }

    #[test]
    fn a_hostile_length_is_cut() {
        let long = "ä".repeat(40_000);
        let texts = Texts::new([&long; PARTS]);
        assert!(texts.part(Part::Hostname).len() <= MAX_TEXT_BYTES);
        assert!(texts.folded_part(Part::Tags).len() <= MAX_TAGS_BYTES);
        assert!(texts.part(Part::SerialNumber).starts_with('ä'));
    }
}
