//! One source file: the modules it declares, the names it defines and imports, the paths it uses.

use std::collections::{BTreeMap, BTreeSet};

use super::token::{Token, tokens};

/// Segments of a path from the crate root.
pub(super) type Path = Vec<String>;

/// What a file has, by the inline module that it stands in: a path from the crate root.
#[derive(Default, Debug)]
pub(super) struct Source {
    /// Modules in files of their own: `mod name;`.
    pub(super) children: Vec<String>,
    /// Inline modules.
    pub(super) inline: BTreeSet<Path>,
    /// Names defined in each module.
    pub(super) items: BTreeSet<Path>,
    /// Imported names, private or not, by the path under which they are known here.
    pub(super) imports: BTreeMap<Path, Path>,
    /// Modules imported by `*`, with the module that imports them.
    pub(super) globs: Vec<(Path, Path)>,
    /// Paths that are used, with imports that are not re-exports.
    pub(super) uses: BTreeSet<Path>,
}

/// Keywords that are followed by the name of an item.
const ITEMS: [&str; 9] = ["fn", "struct", "enum", "union", "trait", "type", "const", "static", "macro_rules"];

struct Parser<'t> {
    tokens: &'t [Token],
    at: usize,
    /// The module of the current position.
    module: Path,
    /// Inline modules that are open: the brace depth of their bodies.
    open: Vec<usize>,
    depth: usize,
    source: Source,
}

/// Reads the file of a module.
pub(super) fn read(text: &str, module: &[String]) -> Source {
    let tokens = tokens(text);
    let source = Source { children: declared(&tokens), ..Source::default() };
    let mut parser = Parser { tokens: &tokens, at: 0, module: module.to_vec(), open: Vec::new(), depth: 0, source };
    while parser.at < tokens.len() {
        parser.step();
    }
    parser.source
}

/// Names of `mod name;`, without those for tests and those whose file is elsewhere (`#[path]`).
fn declared(tokens: &[Token]) -> Vec<String> {
    let mut names = Vec::new();
    for (index, window) in tokens.windows(3).enumerate() {
        if let [Token::Ident(keyword), Token::Ident(name), end] = window
            && keyword == "mod"
            && end.is(';')
            && !follows(&tokens[..index], |attribute| is_cfg_test(attribute) || is_path(attribute))
        {
            names.push(name.clone());
        }
    }
    names
}

/// True if one of the attributes at the end of the tokens is as asked for.
fn follows(mut tokens: &[Token], is_so: impl Fn(&[Token]) -> bool) -> bool {
    while let Some((last, before)) = tokens.split_last() {
        if last.is(']') {
            let start = before.iter().rposition(|token| token.is('#')).unwrap_or(0);
            if is_so(&tokens[start..]) {
                return true;
            }
            tokens = &tokens[..start];
        } else if is_visibility(last) {
            tokens = before;
        } else {
            break;
        }
    }
    false
}

/// True for the tokens of `#[path = ".."]`.
fn is_path(attribute: &[Token]) -> bool {
    attribute.get(2).and_then(Token::ident) == Some("path")
}

/// A token of `pub`, `pub(crate)` and the like.
fn is_visibility(token: &Token) -> bool {
    token.is('(') || token.is(')') || matches!(token.ident(), Some("pub" | "crate" | "super" | "in"))
}

/// True if the tokens end with `#[cfg(test)]`.
fn is_cfg_test(tokens: &[Token]) -> bool {
    let Some(start) = tokens.len().checked_sub(7) else { return false };
    let idents: Vec<&str> = tokens[start..].iter().filter_map(Token::ident).collect();
    tokens[start].is('#') && idents == ["cfg", "test"]
}

impl Parser<'_> {
    fn token(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead)
    }

    fn ident(&self, ahead: usize) -> Option<&str> {
        self.token(ahead).and_then(Token::ident)
    }

    fn is(&self, ahead: usize, punct: char) -> bool {
        self.token(ahead).is_some_and(|token| token.is(punct))
    }

    fn step(&mut self) {
        if self.is(0, '{') {
            self.depth += 1;
        } else if self.is(0, '}') {
            if self.open.last() == Some(&self.depth) {
                self.open.pop();
                self.module.pop();
            }
            self.depth = self.depth.saturating_sub(1);
        } else if is_cfg_test(&self.tokens[..self.at]) {
            self.skip_item();
            return;
        } else if self.ident(0) == Some("use") {
            self.import();
            return;
        } else if self.ident(0) == Some("mod") && self.is(2, '{') {
            let name = self.ident(1).unwrap_or_default().to_owned();
            self.module.push(name);
            self.source.inline.insert(self.module.clone());
            self.depth += 1;
            self.open.push(self.depth);
            self.at += 3;
            return;
        } else if let Some(keyword) = self.ident(0) {
            if ITEMS.contains(&keyword) {
                let name = if self.is(1, '!') { self.ident(2) } else { self.ident(1) };
                if let Some(name) = name {
                    let item = self.join(name);
                    self.source.items.insert(item);
                }
            } else if self.begins_path() {
                let path = self.path();
                self.source.uses.extend(path);
                return;
            }
        }
        self.at += 1;
    }

    /// The path of a name in the current module.
    fn join(&self, name: &str) -> Path {
        let mut path = self.module.clone();
        path.push(name.to_owned());
        path
    }

    /// Skips an item: to its `;`, or behind its block.
    fn skip_item(&mut self) {
        let mut depth = 0;
        while let Some(token) = self.token(0) {
            if token.is('{') {
                depth += 1;
            } else if token.is('}') {
                depth -= 1;
            }
            let ends = depth == 0 && (token.is(';') || token.is('}'));
            self.at += 1;
            if ends {
                break;
            }
        }
    }

    fn begins_path(&self) -> bool {
        let follows = self.at.checked_sub(1).is_some_and(|before| self.tokens[before] == Token::PathSeparator);
        !follows && self.token(1) == Some(&Token::PathSeparator)
    }

    /// Reads `a::b::c`, and makes it a path from the crate root. `None` if it leaves the crate.
    fn path(&mut self) -> Option<Path> {
        let mut segments = Vec::new();
        while let Some(name) = self.ident(0) {
            segments.push(name.to_owned());
            self.at += 1;
            if self.token(0) != Some(&Token::PathSeparator) {
                break;
            }
            self.at += 1;
        }
        self.absolute(&segments)
    }

    fn absolute(&self, segments: &[String]) -> Option<Path> {
        let first = segments.first()?.as_str();
        let mut base = self.module.clone();
        let mut rest = segments;
        match first {
            "crate" => {
                base.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            // A child in a file of its own, or another crate.
            _ => {
                base.truncate(base.len() - self.open.len());
                self.source.children.iter().find(|child| *child == first)?;
            }
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// Reads `use tree;`.
    fn import(&mut self) {
        let start = self.at;
        let visibility = self.tokens[..start].iter().rev().take_while(|token| is_visibility(token));
        let is_public = visibility.last().and_then(Token::ident) == Some("pub");
        self.at += 1;
        self.tree(&[], is_public);
        while self.at < self.tokens.len() && !self.is(0, ';') {
            self.at += 1;
        }
    }

    fn tree(&mut self, prefix: &[String], is_public: bool) {
        let mut segments = prefix.to_vec();
        loop {
            if self.is(0, '{') {
                self.at += 1;
                while self.at < self.tokens.len() && !self.is(0, '}') {
                    if self.is(0, ',') {
                        self.at += 1;
                    } else {
                        self.tree(&segments, is_public);
                    }
                }
                self.at += 1;
                return;
            }
            if self.is(0, '*') {
                self.at += 1;
                if let Some(target) = self.absolute(&segments) {
                    self.source.globs.push((self.module.clone(), target));
                }
                return;
            }
            let Some(name) = self.ident(0) else { return };
            // `a::{self}` names `a`.
            if name != "self" || segments.is_empty() {
                segments.push(name.to_owned());
            }
            self.at += 1;
            if self.token(0) != Some(&Token::PathSeparator) {
                break;
            }
            self.at += 1;
        }
        let mut alias = segments.last().cloned();
        if self.ident(0) == Some("as") {
            alias = self.ident(1).map(str::to_owned);
            self.at += 2;
        }
        if let (Some(target), Some(alias)) = (self.absolute(&segments), alias) {
            if !is_public {
                self.source.uses.insert(target.clone());
            }
            let known = self.join(&alias);
            self.source.imports.insert(known, target);
        }
    }
}
