//! The newest items of a series, and a thinner choice of older ones.

use std::collections::VecDeque;

/// Keeps `max` items: the newest half whole, and as many of all that were before it, evenly.
#[derive(Debug)]
pub(super) struct History<T> {
    /// One in `every`.
    old: Vec<(u64, T)>,
    every: u64,
    fresh: VecDeque<(u64, T)>,
    max: usize,
    pushed: u64,
}

impl<T> History<T> {
    /// `max` is at least 4.
    pub fn new(max: usize) -> Self {
        Self { old: Vec::new(), every: 1, fresh: VecDeque::new(), max, pushed: 0 }
    }

    pub fn push(&mut self, item: T) {
        if self.fresh.len() >= self.max / 2
            && let Some((number, item)) = self.fresh.pop_front()
        {
            self.remember(number, item);
        }
        self.fresh.push_back((self.pushed, item));
        self.pushed += 1;
    }

    fn remember(&mut self, number: u64, item: T) {
        if !number.is_multiple_of(self.every) {
            return;
        }
        self.old.push((number, item));
        if self.old.len() > self.max / 2 {
            self.every *= 2;
            let every = self.every;
            self.old.retain(|(number, _)| number.is_multiple_of(every));
        }
    }

    /// Another number of items, for items of another kind: none are left.
    pub fn restart(&mut self, max: usize) {
        *self = Self { pushed: self.pushed, ..Self::new(max) };
    }

    /// Those that were pushed after `seen`, which is set to the newest.
    pub fn since(&self, seen: &mut u64) -> impl Iterator<Item = &T> + use<'_, T> {
        let old = self.old.partition_point(|(number, _)| *number < *seen);
        let fresh = self.fresh.partition_point(|(number, _)| *number < *seen);
        *seen = self.pushed;
        self.old[old..].iter().chain(self.fresh.range(fresh..)).map(|(_, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_half_is_whole_and_what_was_before_it_is_even() {
        let mut history = History::new(16);
        for number in 0..1_000 {
            history.push(number);
        }
        let all: Vec<i32> = history.since(&mut 0).copied().collect();
        assert!(all.len() >= 12 && all.len() <= 16, "{all:?}");
        let (old, fresh) = all.split_at(all.len() - 8);
        assert_eq!(fresh, (992..1_000).collect::<Vec<_>>());
        assert!(old[0] == 0 && old.windows(2).all(|two| two[1] - two[0] == old[1]), "{all:?}");
    }

    #[test]
    fn who_has_seen_some_gets_the_rest() {
        let mut history = History::new(100);
        let mut seen = 0;
        (0..3).for_each(|number| history.push(number));
        assert_eq!(history.since(&mut seen).copied().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(history.since(&mut seen).count(), 0);
        (3..300).for_each(|number| history.push(number));
        let rest: Vec<i32> = history.since(&mut seen).copied().collect();
        assert!(rest.len() <= 100 && rest.is_sorted(), "{}", rest.len());
        assert_eq!(rest.last(), Some(&299));
        history.restart(4);
        assert_eq!(history.since(&mut seen).count(), 0);
        history.push(300);
        assert_eq!(history.since(&mut seen).copied().collect::<Vec<_>>(), [300]);
    }
}
