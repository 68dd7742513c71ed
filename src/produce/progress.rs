//! What a person sees while records go out: one live line on a terminal, a plain line now and then elsewhere.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

const LIVE_EVERY: Duration = Duration::from_millis(200);
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProgressMode {
    /// `Live` when stderr is a terminal, else `Plain`.
    #[default]
    Auto,
    /// One line that is redrawn.
    Live,
    /// A line every few seconds.
    Plain,
    /// Nothing.
    None,
}

/// The numbers of one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Records handed over.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Records that the broker has confirmed.
    pub delivered: u64,
    /// Records that it has not, and will not.
    pub failed: u64,
}

/// Shows totals no more often than a person can read them.
#[derive(Debug)]
pub struct Progress {
    look: Look,
    shown_at: Duration,
    shown_records: u64,
}

#[derive(Debug)]
enum Look {
    Live(ProgressBar),
    Plain,
    None,
}

impl Progress {
    /// Progress on stderr; `destination` names where the records go.
    pub fn new(mode: ProgressMode, destination: &str) -> Self {
        let live = match mode {
            ProgressMode::Auto => std::io::stderr().is_terminal(),
            ProgressMode::Live => true,
            ProgressMode::Plain | ProgressMode::None => false,
        };
        let look = if live {
            let bar = ProgressBar::new_spinner().with_prefix(destination.to_owned());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {msg}") {
                bar.set_style(style);
            }
            Look::Live(bar)
        } else if mode == ProgressMode::None {
            Look::None
        } else {
            Look::Plain
        };
        Self { look, shown_at: Duration::ZERO, shown_records: 0 }
    }

    /// Shows the totals if it is time to.
    pub fn update(&mut self, elapsed: Duration, totals: &Totals) {
        let since = elapsed.saturating_sub(self.shown_at);
        let every = match self.look {
            Look::Live(_) => LIVE_EVERY,
            Look::Plain => PLAIN_EVERY,
            Look::None => return,
        };
        if since < every {
            return;
        }
        let rate = totals.records.saturating_sub(self.shown_records) as f64 / since.as_secs_f64();
        let line = format!(
            "{} records ({}), {rate:.1} a second, {} confirmed, {} failed",
            HumanCount(totals.records),
            HumanBytes(totals.bytes),
            HumanCount(totals.delivered),
            HumanCount(totals.failed)
        );
        self.shown_at = elapsed;
        self.shown_records = totals.records;
        match &self.look {
            Look::Live(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            _ => say(&line),
        }
    }

    /// Says something that must not be missed: a gap, a limit, a lost connection.
    pub fn notice(&self, text: &str) {
        match &self.look {
            Look::Live(bar) => bar.suspend(|| say(text)),
            Look::Plain => say(text),
            // Whoever asked for silence still has the log.
            Look::None => tracing::warn!("{text}"),
        }
    }

    /// Takes the live line away.
    pub fn finish(&self) {
        if let Look::Live(bar) = &self.look {
            bar.finish_and_clear();
        }
    }
}

fn say(line: &str) {
    // Nobody is left to tell when stderr itself is gone; the records matter more than the line.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
