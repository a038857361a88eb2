//! Reports files and functions that have grown long: places to look at, not a verdict.

use crate::process::say;
use std::{fs, path::Path};

const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 70;
/// Rows that are shown of each.
const SHOWN: usize = 10;
const SKIPPED: &[&str] = &["target", "node_modules", "dist", ".git", ".breeze", "testdata", "fuzz"];

pub(super) fn report(root: &Path) -> anyhow::Result<()> {
    let (mut files, mut functions) = (Vec::new(), Vec::new());
    visit(root, &mut |path| {
        let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
        if shown.ends_with("schema.ts") {
            return Ok(());
        }
        let text = fs::read_to_string(path)?;
        let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let lines = code.lines().count();
        if lines > FILE_LINES {
            files.push((lines, shown.clone()));
        }
        if shown.ends_with(".rs") {
            functions.extend(long_functions(code).map(|(lines, name)| (lines, format!("{shown}: {name}"))));
        }
        Ok(())
    })?;
    show(&format!("files over {FILE_LINES} lines"), files);
    show(&format!("functions over {FUNCTION_LINES} lines"), functions);
    Ok(())
}

fn show(what: &str, mut rows: Vec<(usize, String)>) {
    rows.sort_unstable_by(|a, b| b.cmp(a));
    say(&format!("{what}: {}", rows.len()));
    for (lines, name) in rows.iter().take(SHOWN) {
        say(&format!("  {lines:5}  {name}"));
    }
}

fn visit(directory: &Path, on_file: &mut impl FnMut(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            if !SKIPPED.contains(&name.as_ref()) {
                visit(&path, on_file)?;
            }
        } else if [".rs", ".ts", ".tsx"].iter().any(|ending| name.ends_with(ending)) {
            on_file(&path)?;
        }
    }
    Ok(())
}

/// By rustfmt's layout: from the line with `fn` to the closing brace at the same indentation.
fn long_functions(code: &str) -> impl Iterator<Item = (usize, String)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some((before, after)) = line.split_once("fn ") else { continue };
        let is_item = before.split_whitespace().all(|word| {
            word.starts_with("pub") || word.ends_with(')') || ["async", "const", "unsafe", "extern"].contains(&word)
        });
        if !is_item {
            continue;
        }
        let indentation = &line[..line.len() - line.trim_start().len()];
        let close = format!("{indentation}}}");
        if let Some(length) = lines[start..].iter().position(|line| *line == close)
            && length + 1 > FUNCTION_LINES
        {
            let name = after.split(['(', '<']).next().unwrap_or_default();
            found.push((length + 1, name.to_owned()));
        }
    }
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_functions_are_reported() {
        let body = "    let x = 1;\n".repeat(FUNCTION_LINES);
        let code = format!("pub(crate) async fn long() {{\n{body}}}\n\nfn short() {{\n}}\n");
        let found: Vec<_> = long_functions(&code).collect();
        assert_eq!(found, [(FUNCTION_LINES + 2, "long".to_owned())]);
    }
}
