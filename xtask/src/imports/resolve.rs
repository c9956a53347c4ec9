//! Resolves paths of a crate to the files that define what they name.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path as FilePath, PathBuf};

use super::source::{self, Path, Source};

/// An import between two siblings: modules with the same parent, each with all that is below it.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    /// The sibling that imports.
    pub(super) from: Path,
    /// The sibling that defines what is imported.
    pub(super) to: Path,
    /// The importing file.
    pub(super) file: PathBuf,
    /// What is imported, from the crate root.
    pub(super) path: Path,
}

/// The files of a crate.
pub(super) struct Crate {
    files: Vec<PathBuf>,
    /// Module of each file.
    names: Vec<Path>,
    sources: Vec<Source>,
    /// File of each module, inline ones included.
    modules: BTreeMap<Path, usize>,
}

/// Re-exports that are followed for one path.
const MAX_HOPS: u32 = 16;

impl Crate {
    /// Reads the root file and all modules that it declares.
    pub(super) fn read(root: &FilePath) -> Result<Self> {
        let mut package = Self { files: Vec::new(), names: Vec::new(), sources: Vec::new(), modules: BTreeMap::new() };
        package.add(root, root.parent().unwrap_or(root), &[])?;
        Ok(package)
    }

    /// Adds a file whose children are in `folder`.
    fn add(&mut self, file: &FilePath, folder: &FilePath, module: &[String]) -> Result<()> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let source = source::read(&text, module);
        let index = self.files.len();
        self.modules.insert(module.to_vec(), index);
        self.modules.extend(source.inline.iter().map(|inline| (inline.clone(), index)));
        let children = source.children.clone();
        self.files.push(file.to_path_buf());
        self.names.push(module.to_vec());
        self.sources.push(source);
        for child in children {
            let below = folder.join(&child);
            let file = [below.with_extension("rs"), below.join("mod.rs")].into_iter().find(|file| file.is_file());
            let Some(file) = file else {
                ensure!(false, "{}: no file for module {child}", folder.display());
                continue;
            };
            let mut module = module.to_vec();
            module.push(child);
            self.add(&file, &below, &module)?;
        }
        Ok(())
    }

    /// Number of files.
    pub(super) fn files(&self) -> usize {
        self.files.len()
    }

    /// Imports between siblings. A module and its own children may import each other.
    pub(super) fn edges(&self) -> Vec<Edge> {
        let mut edges = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            let from = &self.names[index];
            for path in &source.uses {
                let Some(to) = self.resolve(path, MAX_HOPS).map(|to| &self.names[to]) else { continue };
                let common = from.iter().zip(to).take_while(|(from, to)| from == to).count();
                if common < from.len() && common < to.len() {
                    let sibling = |module: &Path| module[..=common].to_vec();
                    let (from, to) = (sibling(from), sibling(to));
                    edges.push(Edge { from, to, file: self.files[index].clone(), path: path.clone() });
                }
            }
        }
        edges
    }

    /// The file that defines what a path names. `None` if another crate does.
    fn resolve(&self, path: &[String], hops: u32) -> Option<usize> {
        let mut module: &[String] = &[];
        let mut file = *self.modules.get(module)?;
        for length in 1..=path.len() {
            let here = &path[..length];
            if let Some(inner) = self.modules.get(here) {
                (module, file) = (here, *inner);
                continue;
            }
            let source = &self.sources[file];
            if source.items.contains(here) {
                return Some(file);
            }
            let hops = hops.checked_sub(1)?;
            let continued = |target: &[String]| {
                let path: Path = target.iter().chain(&path[length..]).cloned().collect();
                self.resolve(&path, hops)
            };
            if let Some(target) = source.imports.get(here) {
                return continued(target);
            }
            let name = &path[length - 1];
            let globs = source.globs.iter().filter(|(importer, _)| importer == module);
            for (_, target) in globs {
                let candidate: Path = target.iter().chain([name]).cloned().collect();
                if let Some(found) = self.resolve(&candidate, hops).filter(|_| self.defines(&candidate, hops)) {
                    return if length == path.len() { Some(found) } else { continued(&candidate) };
                }
            }
            // A name that a macro makes, or that another crate gives.
            return Some(file);
        }
        Some(file)
    }

    /// True if a path names a module, an item or an import of this crate.
    fn defines(&self, path: &[String], hops: u32) -> bool {
        let Some((_, module)) = path.split_last() else { return true };
        let Some(file) = self.modules.get(module) else { return false };
        let source = &self.sources[*file];
        self.modules.contains_key(path)
            || source.items.contains(path)
            || source.imports.contains_key(path)
            || hops > 0
                && source.globs.iter().filter(|(importer, _)| importer == module).any(|(_, target)| {
                    let candidate: Path = target.iter().chain(path.last()).cloned().collect();
                    self.defines(&candidate, hops - 1)
                })
    }
}
