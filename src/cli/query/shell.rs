//! The interactive shell: statements of many lines until `;`, with a history.

use std::{io::Write, path::PathBuf};

use rustyline::{DefaultEditor, error::ReadlineError};

use super::{QueryArgs, Stdout, run_script};
use crate::{
    error::{Error, Result},
    query::{QuerySession, Script},
};

const HELP: &str = "\
SQL ends with ;   \\d lists tables   \\d NAME shows columns   \\? this   \\q or Ctrl-D leaves
a path is a table: SELECT * FROM 'dir/*.parquet';";

/// Reads and runs statements until the input ends.
pub(super) async fn run(session: &QuerySession, args: &QueryArgs, stdout: &Stdout) -> Result<()> {
    let failed = |error: ReadlineError| Error::internal("the terminal cannot be read").source_error(error);
    let mut editor = DefaultEditor::new().map_err(failed)?;
    let history = history_file();
    if let Some(file) = &history {
        // The first session has none.
        let _ = editor.load_history(file);
    }
    let mut out = stdout.clone();
    let mut pending = String::new();
    line(&mut out, &format!("Tidemill {}. {HELP}", env!("CARGO_PKG_VERSION")))?;
    loop {
        let read = editor.readline(if pending.is_empty() { "tidemill> " } else { "      ... " });
        let text = match read {
            Ok(text) => text,
            Err(ReadlineError::Interrupted) => {
                pending.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failed(error)),
        };
        if pending.is_empty() && text.trim_start().starts_with('\\') {
            // The history is a convenience: without it the shell still works.
            let _ = editor.add_history_entry(text.trim());
            match command(session, args, stdout, text.trim()).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => eprintln!("error: {error}"),
            }
            continue;
        }
        pending.push_str(&text);
        pending.push('\n');
        if !is_complete(&pending) {
            continue;
        }
        let _ = editor.add_history_entry(pending.trim());
        let script = Script { name: "<input>".to_owned(), text: std::mem::take(&mut pending) };
        tokio::select! {
            outcome = run_script(session, &script, args, stdout) => {
                if let Err(error) = outcome {
                    eprintln!("error: {error}");
                }
            }
            _ = tokio::signal::ctrl_c() => eprintln!("cancelled"),
        }
    }
    if let Some(Err(error)) = history.map(|file| editor.save_history(&file)) {
        tracing::warn!(%error, "the history is not saved");
    }
    Ok(())
}

/// Runs a `\` command; `false` to leave.
async fn command(session: &QuerySession, args: &QueryArgs, stdout: &Stdout, text: &str) -> Result<bool> {
    let mut out = stdout.clone();
    match text.split_once(char::is_whitespace).map_or((text, ""), |(word, rest)| (word, rest.trim())) {
        ("\\q", "") => return Ok(false),
        ("\\?", "") => line(&mut out, HELP)?,
        ("\\d", "") => {
            for table in session.tables() {
                line(&mut out, &format!("{:<24} {:<8} {}", table.name, table.kind, table.place))?;
            }
        }
        ("\\d", name) => {
            let script = Script { name: "<input>".to_owned(), text: format!("DESCRIBE {name}") };
            run_script(session, &script, args, stdout).await?;
        }
        _ => return Err(Error::invalid(format!("there is no command {text}")).help(HELP)),
    }
    Ok(true)
}

fn line(out: &mut Stdout, text: &str) -> Result<()> {
    writeln!(out, "{text}").map_err(|error| Error::internal("the terminal cannot be written").source_error(error))
}

/// Whether the text ends with a `;` that is in no string, quoted name or comment.
fn is_complete(text: &str) -> bool {
    let mut ends = false;
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\'' | '"' => {
                ends = false;
                if !rest.by_ref().any(|c| c == character) {
                    return false;
                }
            }
            '-' if rest.peek() == Some(&'-') => {
                rest.by_ref().take_while(|c| *c != '\n').for_each(drop);
            }
            '/' if rest.peek() == Some(&'*') => {
                let mut last = ' ';
                let closes = |c: char| std::mem::replace(&mut last, c) == '*' && c == '/';
                if !rest.by_ref().skip(1).any(closes) {
                    return false;
                }
            }
            ';' => ends = true,
            c if c.is_whitespace() => {}
            _ => ends = false,
        }
    }
    ends
}

/// `~/.local/state/tidemill/history`, or under `XDG_STATE_HOME`.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let directory = state.join("tidemill");
    std::fs::create_dir_all(&directory).ok()?;
    Some(directory.join("history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_with_a_semicolon_outside_of_everything() {
        for complete in ["SELECT 1;", "SELECT ';' ; ", "SELECT 1; -- done", "SELECT /* ; */ 1;", "a; b;\n"] {
            assert!(is_complete(complete), "{complete}");
        }
        for open in ["SELECT 1", "SELECT ';", "SELECT 1 -- ;", "SELECT 1; SELECT", "SELECT /* ;", "SELECT \"a;"] {
            assert!(!is_complete(open), "{open}");
        }
    }
}
