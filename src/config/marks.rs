//! Where every key and value stands. The YAML reader that gives values keeps no positions, so a second one, which keeps
//! them, goes first; it finds all doubled keys on its way.

use std::{collections::HashMap, rc::Rc};

use saphyr_parser::{Event, Marker, Parser, Span, StrInput};

use super::{
    error::{Position, quote},
    path::{Path, Step},
};

/// How deep collections may stand in each other.
const MAX_DEPTH: usize = 64;
/// How many values a document may hold once its aliases are followed.
const MAX_NODES: usize = 1_000_000;

/// The positions of a document.
pub(super) struct Marks {
    /// `None` for an empty document.
    root: Option<Rc<Node>>,
}

/// A value and what stands below it; an alias shares what its anchor names.
struct Node {
    at: Position,
    below: Below,
    /// How many values it holds, itself included.
    size: usize,
}

enum Below {
    Nothing,
    List(Vec<Rc<Node>>),
    Mapping(Entries),
}

/// Each key, where it stands, and its value.
type Entries = HashMap<Box<str>, (Position, Rc<Node>)>;

/// What is wrong with the text as YAML.
pub(super) struct Flaw {
    pub(super) at: Position,
    pub(super) path: Path,
    pub(super) message: String,
}

impl Marks {
    /// Reads the positions. The second part lists doubled keys, which leave the rest of the document readable.
    ///
    /// # Errors
    /// When the text is no YAML, or not one document.
    pub(super) fn read(text: &str) -> Result<(Self, Vec<Flaw>), Flaw> {
        let mut reader = Reader { events: Parser::new_from_str(text), anchors: HashMap::new(), doubled: Vec::new() };
        let mut root = None;
        loop {
            match reader.next()? {
                (Event::StreamEnd, _) => return Ok((Self { root }, reader.doubled)),
                (Event::DocumentStart(_), at) if root.is_some() => {
                    return Err(flaw(at.start, "a second document begins here; a configuration is one"));
                }
                (Event::DocumentStart(_) | Event::StreamStart | Event::DocumentEnd | Event::Nothing, _) => {}
                (event, at) => root = Some(reader.node(event, at, &Path::default(), 0)?),
            }
        }
    }

    /// Where `path` stands: at its key, or at its start for a list's element. What is not in the document (a key that is
    /// missing) stands where the nearest thing that holds it does.
    pub(super) fn position(&self, path: &Path) -> Option<Position> {
        let mut node = self.root.as_ref()?;
        let mut at = node.at;
        for step in path.steps() {
            let found = match (step, &node.below) {
                (Step::Index(index), Below::List(items)) => items.get(*index).map(|item| (item.at, item)),
                (Step::Key(key), Below::Mapping(_)) => find(node, key),
                (_, Below::Nothing | Below::List(_) | Below::Mapping(_)) => None,
            };
            let Some((position, below)) = found else { break };
            (at, node) = (position, below);
        }
        Some(at)
    }
}

/// A key of a mapping, or of one that it merges (`<<: *defaults`).
fn find<'a>(node: &'a Rc<Node>, key: &str) -> Option<(Position, &'a Rc<Node>)> {
    let Below::Mapping(entries) = &node.below else { return None };
    if let Some((at, value)) = entries.get(key) {
        return Some((*at, value));
    }
    let (_, merged) = entries.get("<<")?;
    match &merged.below {
        Below::Mapping(_) => find(merged, key),
        Below::List(items) => items.iter().find_map(|item| find(item, key)),
        Below::Nothing => None,
    }
}

struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Rc<Node>>,
    doubled: Vec<Flaw>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Flaw> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(flaw(*error.marker(), &format!("not YAML: {}", error.info()))),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, path: &Path, depth: usize) -> Result<Rc<Node>, Flaw> {
        if depth > MAX_DEPTH {
            return Err(flaw(span.start, &format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let at = position(span.start);
        let (anchor, below) = match event {
            Event::Alias(anchor) => {
                let shared = self.anchors.get(&anchor);
                return shared.cloned().ok_or_else(|| flaw(span.start, "an alias stands inside what it names"));
            }
            Event::SequenceStart(anchor, _) => (anchor, Below::List(self.list(path, depth)?)),
            Event::MappingStart(anchor, _) => (anchor, Below::Mapping(self.mapping(path, depth)?)),
            Event::Scalar(_, _, anchor, _) => (anchor, Below::Nothing),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => return Err(flaw(span.start, "not YAML: a value is missing")),
        };
        let size = below.sizes().fold(1, usize::saturating_add);
        if size > MAX_NODES {
            return Err(flaw(span.start, &format!("more than {MAX_NODES} values, aliases followed")));
        }
        let node = Rc::new(Node { at, below, size });
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, path: &Path, depth: usize) -> Result<Vec<Rc<Node>>, Flaw> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, at) => items.push(self.node(event, at, &path.index(items.len()), depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, path: &Path, depth: usize) -> Result<Entries, Flaw> {
        let mut entries = Entries::new();
        loop {
            let (event, span) = self.next()?;
            let key: Box<str> = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(ref text, ..) => (&**text).into(),
                _ => return Err(flaw(span.start, "a key has to be text")),
            };
            let path = path.key(&key);
            self.node(event, span, &path, depth + 1)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, &path, depth + 1)?;
            let at = position(span.start);
            if let Some((first, _)) = entries.get(&key) {
                let message = format!("the key {} stands in line {} already", quote(&key), first.line);
                self.doubled.push(Flaw { at, path, message });
            } else {
                entries.insert(key, (at, value));
            }
        }
    }
}

impl Below {
    fn sizes(&self) -> impl Iterator<Item = usize> {
        let (items, entries) = match self {
            Self::Nothing => (None, None),
            Self::List(items) => (Some(items), None),
            Self::Mapping(entries) => (None, Some(entries)),
        };
        let items = items.into_iter().flatten().map(|item| item.size);
        items.chain(entries.into_iter().flat_map(HashMap::values).map(|(_, value)| value.size))
    }
}

fn flaw(at: Marker, message: &str) -> Flaw {
    Flaw { at: position(at), path: Path::default(), message: message.into() }
}

fn position(at: Marker) -> Position {
    Position { line: at.line().max(1), column: at.col() + 1 }
}
