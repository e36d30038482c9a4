//! The XML preset: elements, attributes, their order, how often they occur and what they hold, as a grammar. Written without blanks
//! between elements; attributes come in the order of the description.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Deserialize;

use super::values::{Notation, ValueType};

/// A kind of XML document.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XmlSpec {
    /// The name of the outermost element.
    pub root: String,
    /// The elements by name; they may contain each other, and themselves.
    pub elements: BTreeMap<String, XmlElement>,
    /// Whether the document begins with `<?xml version="1.0" encoding="UTF-8"?>`. Default false.
    #[serde(default)]
    pub declaration: bool,
}

/// An element: attributes, and either a value, or children in this order, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct XmlElement {
    /// Its attributes.
    pub attributes: Vec<XmlAttribute>,
    /// The text that it holds.
    pub value: Option<ValueType>,
    /// The elements that it holds.
    pub children: Vec<XmlParticle>,
}

/// An attribute.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct XmlAttribute {
    /// Its name.
    pub name: String,
    /// What it holds.
    #[serde(flatten)]
    pub value: ValueType,
    /// Whether it may be missing. Default false.
    #[serde(default)]
    pub optional: bool,
}

/// Children: an element, one of several, or several in order; how often.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XmlParticle {
    /// An element by name.
    #[serde(default)]
    pub element: Option<String>,
    /// One of these.
    #[serde(default)]
    pub choice: Option<Vec<XmlParticle>>,
    /// All of these in order.
    #[serde(default)]
    pub sequence: Option<Vec<XmlParticle>>,
    /// How often at least. Default 1.
    #[serde(default = "one")]
    pub min: usize,
    /// How often at most.
    #[serde(default)]
    pub max: XmlMax,
}

/// How often at most: a number, or `"unbounded"`. Default once, or `min`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum XmlMax {
    /// As often as at least, or once.
    #[default]
    Least,
    /// So often.
    Times(usize),
    /// Without end.
    Unbounded(Unbounded),
}

/// The word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unbounded {
    /// `"unbounded"`, as XSD has it.
    Unbounded,
}

fn one() -> usize {
    1
}

const MAX_ELEMENTS: usize = 2_000;
const MAX_TIMES: usize = 10_000;
const MAX_DEPTH: usize = 64;

impl XmlSpec {
    /// The grammar in Lark.
    pub(super) fn lark(&self) -> Result<String, String> {
        if self.elements.len() > MAX_ELEMENTS {
            return Err(format!("`elements` must be at most {MAX_ELEMENTS}; given {}", self.elements.len()));
        }
        if !self.elements.contains_key(&self.root) {
            return Err(format!("`root` must be one of `elements`; given {:?}", self.root));
        }
        self.check_names()?;
        self.check_ends()?;
        let numbers: BTreeMap<&str, usize> =
            self.elements.keys().enumerate().map(|(number, name)| (name.as_str(), number)).collect();
        let declaration = if self.declaration { "/<\\?xml version=\"1.0\" encoding=\"UTF-8\"\\?>\\n/ " } else { "" };
        let mut out = format!("start: {declaration}e{}\n", numbers[self.root.as_str()]);
        for (name, element) in &self.elements {
            let wrong = |reason: String| format!("element {name:?}: {reason}");
            _ = writeln!(out, "e{}: {}", numbers[name.as_str()], rule(name, element, &numbers).map_err(wrong)?);
        }
        Ok(out)
    }

    fn check_names(&self) -> Result<(), String> {
        for (name, element) in &self.elements {
            let mut seen = BTreeSet::new();
            for name in [name].into_iter().chain(element.attributes.iter().map(|attribute| &attribute.name)) {
                let is_start = |c: char| c.is_alphabetic() || c == '_';
                let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
                if !name.starts_with(is_start) || !name.chars().all(is_name) || name.to_ascii_lowercase().starts_with("xml") {
                    return Err(format!("{name:?} must be a name of XML"));
                }
            }
            if let Some(twice) = element.attributes.iter().find(|attribute| !seen.insert(&attribute.name)) {
                return Err(format!("element {name:?} must have each attribute once; `{}` is listed twice", twice.name));
            }
            if element.value.is_some() && !element.children.is_empty() {
                return Err(format!("element {name:?} must have a `value` or `children`, not both"));
            }
            self.check_particles(name, &element.children, 0)?;
        }
        Ok(())
    }

    fn check_particles(&self, name: &str, particles: &[XmlParticle], depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("element {name:?} must nest its children at most {MAX_DEPTH} deep"));
        }
        for particle in particles {
            let parts = (&particle.element, &particle.choice, &particle.sequence);
            match parts {
                (Some(child), None, None) if !self.elements.contains_key(child) => {
                    return Err(format!("element {name:?} has the child {child:?}, which is not one of `elements`"));
                }
                (Some(_), None, None) => {}
                (None, Some(parts), None) | (None, None, Some(parts)) if !parts.is_empty() => {
                    self.check_particles(name, parts, depth + 1)?;
                }
                _ => return Err(format!("a child of {name:?} must be one of `element`, `choice` and `sequence`, and not empty")),
            }
            let max = particle.most();
            if particle.min > MAX_TIMES || max.is_some_and(|max| max < particle.min || max == 0 || max > MAX_TIMES) {
                return Err(format!("a child of {name:?} must have `min` at most `max`, and both at most {MAX_TIMES}"));
            }
        }
        Ok(())
    }

    /// Every element must be able to come to an end: one that needs itself never does.
    fn check_ends(&self) -> Result<(), String> {
        let mut ending: BTreeSet<&str> = BTreeSet::new();
        loop {
            let before = ending.len();
            for (name, element) in &self.elements {
                if element.children.iter().all(|particle| particle.ends(&ending)) {
                    ending.insert(name);
                }
            }
            if ending.len() == before {
                break;
            }
        }
        match self.elements.keys().find(|name| !ending.contains(name.as_str())) {
            Some(name) => Err(format!("element {name:?} needs itself to be complete, so it never is; set `min` to 0 on the way")),
            None => Ok(()),
        }
    }
}

impl XmlParticle {
    /// How often at most; `None` without end.
    fn most(&self) -> Option<usize> {
        match self.max {
            XmlMax::Least => Some(self.min.max(1)),
            XmlMax::Times(times) => Some(times),
            XmlMax::Unbounded(_) => None,
        }
    }

    fn ends(&self, ending: &BTreeSet<&str>) -> bool {
        self.min == 0
            || self.element.as_ref().is_some_and(|name| ending.contains(name.as_str()))
            || self.choice.as_ref().is_some_and(|parts| parts.iter().any(|part| part.ends(ending)))
            || self.sequence.as_ref().is_some_and(|parts| parts.iter().all(|part| part.ends(ending)))
    }

    fn lark(&self, numbers: &BTreeMap<&str, usize>) -> String {
        let join = |parts: &[Self], between: &str| parts.iter().map(|part| part.lark(numbers)).collect::<Vec<_>>().join(between);
        let inner = match (&self.element, &self.choice, &self.sequence) {
            (Some(name), ..) => format!("e{}", numbers[name.as_str()]),
            (_, Some(parts), _) => join(parts, " | "),
            (.., Some(parts)) => join(parts, " "),
            _ => String::new(),
        };
        match (self.min, self.most()) {
            (1, Some(1)) => format!("({inner})"),
            (min, Some(max)) => format!("({inner}){{{min},{max}}}"),
            (min, None) => format!("({inner}){{{min},}}"),
        }
    }
}

/// An element without children is one lexeme; of others the tags are.
fn rule(name: &str, element: &XmlElement, numbers: &BTreeMap<&str, usize>) -> Result<String, String> {
    let mut open = regex_syntax::escape(&format!("<{name}"));
    for XmlAttribute { name, value, optional } in &element.attributes {
        let value = value.regex(&Notation { plain: "^<>&\"\\x00-\\x1F\\x7F", escapes: ENTITIES, write: &write });
        let value = value.map_err(|reason| format!("attribute {name:?}: {reason}"))?;
        _ = write!(open, "(?: {}=\"{value}\"){}", regex_syntax::escape(name), if *optional { "?" } else { "" });
    }
    let close = regex_syntax::escape(&format!("</{name}>"));
    let lexeme = |regex: &str| format!("/{}/", llguidance::regex_to_lark(regex, ""));
    if let Some(value) = &element.value {
        let value = value.regex(&Notation {
            plain: "^<>&\\x00-\\x08\\x0B\\x0C\\x0D\\x0E-\\x1F\\x7F",
            escapes: ENTITIES,
            write: &write,
        })?;
        return Ok(lexeme(&format!("{open}>(?:{value}){close}")));
    }
    if element.children.is_empty() {
        return Ok(lexeme(&format!("{open}/>")));
    }
    let children: Vec<String> = element.children.iter().map(|particle| particle.lark(numbers)).collect();
    Ok(format!("{} {} {}", lexeme(&format!("{open}>")), children.join(" "), lexeme(&close)))
}

const ENTITIES: &str = "&(?:lt|gt|amp|quot|apos);";

/// A text with its markup written as entities.
fn write(text: &str) -> Option<String> {
    let is_allowed = text.chars().all(|c| c >= ' ' && c != '\u{7F}');
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    is_allowed.then(|| escape(text))
}
