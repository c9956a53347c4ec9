//! Names of the functions that `linux/object.h` declares.

/// Comments that begin the two parts of the header.
const PARTS: [&str; 2] = ["/* Functions of the object */", "/* Functions for the object */"];

/// Functions of the object, and functions that it calls. `None` if the header lacks one of the
/// parts.
#[must_use]
pub fn functions(header: &str) -> Option<(Vec<&str>, Vec<&str>)> {
    let (_, rest) = header.split_once(PARTS[0])?;
    let (of_the_object, for_the_object) = rest.split_once(PARTS[1])?;
    Some((names(of_the_object), names(for_the_object)))
}

/// A declaration begins a line; comments and further arguments are indented.
fn names(part: &str) -> Vec<&str> {
    let declarations = part.lines().filter(|line| line.contains('(') && !line.starts_with([' ', '\t', '/', '#']));
    declarations.filter_map(|line| line.split('(').next()?.rsplit([' ', '*']).next()).collect()
}
