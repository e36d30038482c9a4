//! Tokens beside the merged vocabulary: finds their text before anything is split or merged. Knows no ids of other tokens.

use std::collections::HashMap;
use std::ops::Range;

use regex_automata::Input;

use super::error;
use super::model::MAX_TOKEN_ID;
use super::pattern::{self, Regex};
use crate::Result;
use crate::batch::TokenId;
use crate::error::shorten;

/// A token that is found in text as it stands, such as `<|im_end|>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddedToken {
    /// Its id.
    pub id: TokenId,
    /// Its text.
    pub text: String,
    /// For control: left out of decoded text.
    pub special: bool,
    /// Found only where no word character touches it.
    pub single_word: bool,
    /// Takes the whitespace before it along.
    pub lstrip: bool,
    /// Takes the whitespace after it along.
    pub rstrip: bool,
}

impl AddedToken {
    /// Whether text of a user must not become this token: special tokens and everything that looks like markup
    /// (`<tool_call>`, `[INST]`), but not a run of spaces or a word that a vocabulary was extended with.
    pub fn is_guarded(&self) -> bool {
        let is_markup = |open, close| self.text.starts_with(open) && self.text.ends_with(close);
        self.special || is_markup('<', '>') || is_markup('[', ']')
    }
}

/// Which added tokens to find.
#[derive(Clone, Copy)]
pub enum Recognize<'a> {
    /// Only those that may come from users.
    Unguarded,
    /// All that touch none of the byte ranges.
    AllOutside(&'a [Range<usize>]),
}

/// An added token in a text.
pub struct Found {
    pub id: TokenId,
    pub range: Range<usize>,
}

#[derive(Debug)]
pub struct AddedTokens {
    tokens: Vec<AddedToken>, // by id
    ids: HashMap<String, TokenId>,
    all: Option<Finder>,
    unguarded: Option<Finder>,
}

/// Finds the leftmost of some tokens, the longest where several begin.
#[derive(Debug)]
struct Finder {
    regex: Regex,
    tokens: Vec<usize>, // by pattern of the regex, indices into `AddedTokens::tokens`
}

impl AddedTokens {
    pub fn new(mut tokens: Vec<AddedToken>) -> Result<Self> {
        tokens.retain(|token| !token.text.is_empty());
        tokens.sort_by_key(|token| token.id);
        let mut ids = HashMap::with_capacity(tokens.len());
        for (index, token) in tokens.iter().enumerate() {
            let name = shorten(&token.text);
            if token.id > MAX_TOKEN_ID {
                return Err(error(format!("token ids must be at most {MAX_TOKEN_ID}; `{name}` has {}", token.id)));
            }
            if ids.insert(token.text.clone(), token.id).is_some() {
                return Err(error(format!("an added token must be listed once; `{name}` is listed twice")));
            }
            if index > 0 && tokens[index - 1].id == token.id {
                return Err(error(format!("every added token needs an id of its own; `{name}` shares {}", token.id)));
            }
        }
        let all = Finder::new(&tokens, |_| true)?;
        let unguarded = Finder::new(&tokens, |token| !token.is_guarded())?;
        Ok(Self { tokens, ids, all, unguarded })
    }

    /// The first token at or after byte `start`.
    pub fn find(&self, text: &str, start: usize, recognize: Recognize) -> Option<Found> {
        let (finder, plain) = match recognize {
            Recognize::Unguarded => (self.unguarded.as_ref()?, [].as_slice()),
            Recognize::AllOutside(plain) => (self.all.as_ref()?, plain),
        };
        let mut from = start;
        while let Some(found) = finder.regex.search(&Input::new(text).range(from..)) {
            let token = &self.tokens[finder.tokens[found.pattern().as_usize()]];
            if touches(plain, &found.range()) || token.single_word && within_word(text, &found.range()) {
                from = found.start() + text[found.start()..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            let mut range = found.range();
            if token.lstrip {
                range.start = start + text[start..range.start].trim_end().len();
            }
            if token.rstrip {
                range.end = text.len() - text[range.end..].trim_start().len();
            }
            return Some(Found { id: token.id, range });
        }
        None
    }

    pub fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.tokens.iter()
    }

    pub fn id_of(&self, text: &str) -> Option<TokenId> {
        self.ids.get(text).copied()
    }

    pub fn contains_id(&self, id: TokenId) -> bool {
        self.by_id(id).is_some()
    }

    pub fn is_special(&self, id: TokenId) -> bool {
        self.by_id(id).is_some_and(|token| token.special)
    }

    fn by_id(&self, id: TokenId) -> Option<&AddedToken> {
        self.tokens.binary_search_by_key(&id, |token| token.id).ok().map(|index| &self.tokens[index])
    }
}

impl Finder {
    fn new(tokens: &[AddedToken], wanted: impl Fn(&AddedToken) -> bool) -> Result<Option<Self>> {
        let mut indices: Vec<usize> = (0..tokens.len()).filter(|&index| wanted(&tokens[index])).collect();
        if indices.is_empty() {
            return Ok(None);
        }
        // Earlier patterns win over later ones at the same place: longest first.
        indices.sort_by_key(|&index| std::cmp::Reverse(tokens[index].text.len()));
        let patterns: Vec<String> = indices.iter().map(|&index| pattern::escape(&tokens[index].text)).collect();
        Ok(Some(Self { regex: pattern::compile(&patterns)?, tokens: indices }))
    }
}

/// Whether any of the sorted, disjoint `ranges` shares a byte with `range`.
fn touches(ranges: &[Range<usize>], range: &Range<usize>) -> bool {
    let first = ranges.partition_point(|plain| plain.end <= range.start);
    ranges.get(first).is_some_and(|plain| plain.start < range.end)
}

fn within_word(text: &str, range: &Range<usize>) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text[..range.start].chars().next_back().is_some_and(is_word) || text[range.end..].chars().next().is_some_and(is_word)
}
