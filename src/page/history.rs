//! The newest items of a series, and a thinner choice of older ones.

use std::collections::VecDeque;

use crate::stream::Thinned;

/// Keeps `max` items: the newest half whole, and up to as many of all that were before it, chosen by chance.
#[derive(Debug)]
pub(super) struct History<T> {
    old: Vec<(u64, T)>,
    thinned: Thinned,
    fresh: VecDeque<(u64, T)>,
    max: usize,
    pushed: u64,
}

impl<T> History<T> {
    /// `max` is at least 4.
    pub fn new(max: usize) -> Self {
        Self { old: Vec::new(), thinned: Thinned::default(), fresh: VecDeque::new(), max, pushed: 0 }
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
        if !self.thinned.keeps(number) {
            return;
        }
        self.old.push((number, item));
        while self.old.len() > self.max / 2 {
            self.thinned.halve();
            let thinned = self.thinned;
            self.old.retain(|(number, _)| thinned.keeps(*number));
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
    fn the_newest_half_is_whole_and_what_was_before_it_is_there_in_parts() {
        let mut history = History::new(200);
        for number in 0..10_000 {
            history.push(number);
        }
        let all: Vec<i32> = history.since(&mut 0).copied().collect();
        assert!(all.len() > 120 && all.len() <= 200 && all.is_sorted(), "{all:?}");
        let (old, fresh) = all.split_at(all.len() - 100);
        assert_eq!(fresh, (9_900..10_000).collect::<Vec<_>>());
        // Of each quarter, and of each of two series that take turns.
        assert!((0..4).all(|part| old.iter().any(|it| it / 2_475 == part)), "{old:?}");
        assert!((0..2).all(|part| old.iter().filter(|it| **it % 2 == part).count() > 4), "{old:?}");
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
