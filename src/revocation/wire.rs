//! How revocations go from process to process, and into a file: a line each, JSON behind the CRC of it.
//!
//! ```text
//! 5d41402a {"hello":{"version":1,"issuer":"https://id.example","life":"19f…","from":0,"clock":81234,"wall":1800000000000}}
//! 7d793037 {"entry":{"prev":0,"n":7,"kind":"subject","id":"alice","until":1800000360000,"at":1800000000000}}
//! 9e107d9d {"beat":{"prev":7,"n":9,"clock":82234}}
//! ```
//!
//! A reader knows from `prev` that it has missed nothing, and from a beat that there was nothing more when the sender's
//! clock showed that.

use serde::{Deserialize, Serialize};

use super::Entry;
use crate::{
    clock::Timestamp,
    store::{Revocation, Revoked},
    types::{IssuerUrl, Position},
};

/// The version of this format. A reader takes no other.
const VERSION: u32 = 1;

/// The longest line that is read, in bytes: every name has a bound where it is entered.
pub const MAX_LINE: usize = 16 << 10;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first one.
    Hello(Hello),
    /// Something was revoked, or lifted.
    Entry(WireEntry),
    /// Nothing more was, up to now.
    Beat(Beat),
}

/// Who speaks, and from where on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    version: u32,
    /// The issuer that keeps the log.
    pub issuer: IssuerUrl,
    /// The log's life.
    life: String,
    /// The number after which entries follow; 0 where all that are live do.
    pub from: u64,
    /// A clock that only goes forward, in milliseconds; that of beats.
    pub clock: u64,
    /// The date.
    pub wall: Timestamp,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireEntry {
    /// The number of the line before it.
    pub prev: u64,
    /// Its number.
    pub n: u64,
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer: Option<IssuerUrl>,
    until: Timestamp,
    /// When it was made, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "is_false")]
    lifts: bool,
    /// The life of the log it comes from, where it is not the one of the hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    life: Option<String>,
}

/// A sign of life, once a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The number of the line before it.
    pub prev: u64,
    /// The number up to which everything live has been said.
    pub n: u64,
    /// The sender's clock when that was so.
    pub clock: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Hello {
    /// A hello of this version; `from` is what follows.
    pub fn new(issuer: IssuerUrl, from: Position, clock: u64, wall: Timestamp) -> Self {
        let Position { life, number } = from;
        Self { version: VERSION, issuer, life: format!("{life:x}"), from: number, clock, wall }
    }

    /// Where in which log it begins; `None` where the format is another, or it makes no sense.
    pub fn position(&self) -> Option<Position> {
        let life = u64::from_str_radix(&self.life, 16).ok().filter(|_| self.version == VERSION)?;
        Some(Position { life, number: self.from })
    }
}

impl WireEntry {
    /// An entry of the log behind the line `prev`.
    pub fn of(prev: u64, revocation: &Revocation) -> Self {
        let Revocation { number, at, issuer, what, until, lifts, .. } = revocation;
        Self {
            prev,
            n: *number,
            kind: what.kind().into(),
            id: what.id().map(Into::into),
            issuer: issuer.clone(),
            until: *until,
            at: Some(*at),
            lifts: *lifts,
            life: None,
        }
    }

    /// An entry as memory holds it, for a file that says hello by the name of `own` and of `life`.
    pub fn remembered(entry: &Entry, own: &IssuerUrl, life: u64) -> Self {
        Self {
            prev: 0,
            n: entry.number,
            kind: entry.what.kind().into(),
            id: entry.what.id().map(Into::into),
            issuer: Some(&entry.issuer).filter(|issuer| *issuer != own).cloned(),
            until: entry.until,
            at: entry.at,
            lifts: entry.lifts,
            life: (entry.life != life).then(|| format!("{:x}", entry.life)),
        }
    }

    /// The same for the table; `None` where it makes no sense. `own` and `life` are the hello's.
    pub fn entry(self, own: &IssuerUrl, life: u64) -> Option<Entry> {
        let what = Revoked::parse(&self.kind, self.id.as_deref())?;
        let by_position = self.issuer.as_ref().is_none_or(|issuer| issuer == own);
        let life = self.life.map_or(Some(life), |life| u64::from_str_radix(&life, 16).ok())?;
        Some(Entry {
            number: self.n,
            life,
            issuer: self.issuer.unwrap_or_else(|| own.clone()),
            what,
            until: self.until,
            at: self.at,
            by_position,
            lifts: self.lifts,
        })
    }
}

impl Line {
    /// Adds the line to `out`, its end included.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(b"00000000 ");
        // Texts and numbers alone, into memory: it can always be written.
        let _ = serde_json::to_writer(&mut *out, self);
        let sum = format!("{:08x}", crc32fast::hash(&out[start + 9..]));
        out[start..start + 8].copy_from_slice(sum.as_bytes());
        out.push(b'\n');
    }

    /// Reads a line without its end; `None` where it is damaged.
    pub fn read(line: &[u8]) -> Option<Self> {
        let (sum, json) = line.split_at_checked(9)?;
        let sum = std::str::from_utf8(sum).ok()?.strip_suffix(' ')?;
        if u32::from_str_radix(sum, 16).ok()? != crc32fast::hash(json) {
            return None;
        }
        serde_json::from_slice(json).ok()
    }
}
