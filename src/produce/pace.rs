//! How fast records may go: a schedule in which record `n` is due at `n / rate` seconds.

use std::{str::FromStr, time::Duration};

use crate::error::Error;

/// At most this many records between two looks at the clock, the delivery reports and a wish to stop.
pub const CHUNK: usize = 1024;

/// Behind its schedule, a pacer catches up with at most this much, so that a pause never ends in a burst.
const CATCH_UP: Duration = Duration::from_millis(100);

/// Records a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    PerSecond(f64),
    /// As fast as they are taken.
    Max,
}

impl FromStr for Rate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.eq_ignore_ascii_case("max") {
            return Ok(Self::Max);
        }
        match text.parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Self::PerSecond(rate)),
            _ => Err(Error::invalid(format!("'{text}' is no rate: a number of records a second above 0, or max"))),
        }
    }
}

/// What may be done now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Grant {
    /// Send this many, between 1 and `CHUNK`.
    Send(usize),
    /// Nothing is due for this long.
    Wait(Duration),
}

/// Hands out sends on a schedule. Pure: the caller brings the time.
#[derive(Debug, Clone)]
pub struct Pacer {
    rate: Rate,
    granted: f64,
}

impl Pacer {
    /// The first record is due at once.
    pub fn new(rate: Rate) -> Self {
        Self { rate, granted: 0.0 }
    }

    /// What is due `elapsed` after the start.
    pub fn grant(&mut self, elapsed: Duration) -> Grant {
        let Rate::PerSecond(rate) = self.rate else { return Grant::Send(CHUNK) };
        let due = (elapsed.as_secs_f64() * rate).floor() + 1.0;
        let most = (CATCH_UP.as_secs_f64() * rate).floor().max(1.0);
        if due - self.granted > most {
            self.granted = due - most;
        }
        let behind = due - self.granted;
        if behind < 1.0 {
            let wait = (self.granted / rate - elapsed.as_secs_f64()).max(0.0);
            // An hour is long enough to look again; it also keeps tiny rates within a Duration.
            return Grant::Wait(Duration::from_secs_f64(wait.min(3_600.0)).max(Duration::from_micros(100)));
        }
        let count = behind.min(CHUNK as f64) as usize;
        self.granted += count as f64;
        Grant::Send(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_a_second_is_one_at_each_second() {
        let mut pacer = Pacer::new(Rate::PerSecond(1.0));
        assert_eq!(pacer.grant(Duration::ZERO), Grant::Send(1));
        assert_eq!(pacer.grant(Duration::from_millis(400)), Grant::Wait(Duration::from_millis(600)));
        assert_eq!(pacer.grant(Duration::from_millis(1_000)), Grant::Send(1));
        // Ten seconds asleep: one record, not ten.
        assert_eq!(pacer.grant(Duration::from_secs(11)), Grant::Send(1));
        assert!(matches!(pacer.grant(Duration::from_secs(11)), Grant::Wait(_)));
    }

    #[test]
    fn rates_are_checked() {
        assert_eq!("max".parse::<Rate>().unwrap(), Rate::Max);
        assert_eq!("2.5".parse::<Rate>().unwrap(), Rate::PerSecond(2.5));
        for wrong in ["0", "-1", "fast", "NaN", "inf", ""] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn never_faster_than_the_rate_and_steady_when_looked_at_often(rate in 0.5_f64..2_000_000.0, step_us in 100_u64..2_000) {
            let mut pacer = Pacer::new(Rate::PerSecond(rate));
            let (mut now, mut sent) = (Duration::ZERO, 0_usize);
            while now < Duration::from_secs(1) {
                while let Grant::Send(count) = pacer.grant(now) {
                    prop_assert!((1..=CHUNK).contains(&count));
                    sent += count;
                }
                let most = now.as_secs_f64() * rate + 1.0;
                prop_assert!(sent as f64 <= most, "{sent} sent after {now:?}");
                now += Duration::from_micros(step_us);
            }
            let short = rate - sent as f64;
            prop_assert!(short <= rate * 0.003 + 1.0, "{sent} of {rate}");
        }
    }
}
