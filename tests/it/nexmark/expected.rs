//! What the queries have to give, computed from the events without any SQL: one line of CSV for each row, unsorted.

use std::collections::{BTreeMap, BTreeSet};

use super::generator::{Auction, Bid, Event, Person, Timed, stamp};

const SECOND_MS: i64 = 1_000;
const WINDOW_MS: i64 = 10 * SECOND_MS;

/// The check of a query, if it has one: by its name.
pub fn lines(query: &str, events: &[Timed]) -> Option<Vec<String>> {
    Some(match query {
        "q0" => bids(events).map(|(bid, at)| row(bid, at, &bid.price.to_string())).collect(),
        "q1" => bids(events).map(|(bid, at)| row(bid, at, &euros(bid.price))).collect(),
        "q2" => {
            let some = bids(events).filter(|(bid, _)| bid.auction % 123 == 0);
            some.map(|(bid, _)| format!("{},{}", bid.auction, bid.price)).collect()
        }
        "q5" | "q5_joined" => hot_items(events),
        "q7" => highest_bids(events),
        "q8" => new_users(events),
        "q10" => {
            let line = |(bid, at): (&Bid, i64)| {
                format!("{},{},{}", row(bid, at, &bid.price.to_string()), &stamp(at)[..10], &stamp(at)[11..16])
            };
            bids(events).map(line).collect()
        }
        "q11" => sessions(events),
        "q12" => arrivals(events),
        "q13" => {
            let known = bids(events).filter_map(|(bid, at)| Some((bid, at, side_input(bid.auction % 100)?)));
            let line = |(bid, at, value): (&Bid, i64, String)| {
                format!("{},{},{},{},{value}", bid.auction, bid.bidder, bid.price, stamp(at))
            };
            known.map(line).collect()
        }
        "q14" => calculated(events),
        "q15" => each_day(events),
        "q17" => each_auction_and_day(events),
        "q18" => last_bids(events),
        "q21" => channels(events),
        "q22" => {
            let line = |(bid, _): (&Bid, i64)| {
                let parts: Vec<&str> = bid.url.split('/').collect();
                format!(
                    "{},{},{},{},{},{},{}",
                    bid.auction, bid.bidder, bid.price, bid.channel, parts[3], parts[4], parts[5]
                )
            };
            bids(events).map(line).collect()
        }
        _ => return None,
    })
}

/// What the file of query 13 says of a key.
pub fn side_input(key: usize) -> Option<String> {
    (key % 3 != 1).then(|| format!("value {key}"))
}

fn bids(events: &[Timed]) -> impl Iterator<Item = (&Bid, i64)> {
    events.iter().filter_map(|timed| match &timed.event {
        Event::Bid(bid) => Some((bid, timed.time_ms)),
        _ => None,
    })
}

fn euros(price: u64) -> String {
    format!("{}.{:03}", price * 908 / 1000, price * 908 % 1000)
}

fn row(bid: &Bid, at: i64, price: &str) -> String {
    format!("{},{},{price},{},{}", bid.auction, bid.bidder, stamp(at), bid.extra)
}

/// The starts of the windows of ten seconds every `slide_ms` that hold a time.
fn starts(at: i64, slide_ms: i64) -> impl Iterator<Item = i64> {
    let last = at.div_euclid(slide_ms) * slide_ms;
    (0..WINDOW_MS / slide_ms).map(move |step| last - step * slide_ms)
}

fn hot_items(events: &[Timed]) -> Vec<String> {
    let mut counts: BTreeMap<i64, BTreeMap<usize, u64>> = BTreeMap::new();
    for (bid, at) in bids(events) {
        for start in starts(at, 2 * SECOND_MS) {
            *counts.entry(start).or_default().entry(bid.auction).or_default() += 1;
        }
    }
    let mut lines = Vec::new();
    for (start, auctions) in counts {
        let most = auctions.values().max().copied();
        let hottest = auctions.iter().filter(|(_, num)| Some(**num) == most);
        lines.extend(hottest.map(|(auction, num)| format!("{},{auction},{num}", stamp(start))));
    }
    lines
}

fn highest_bids(events: &[Timed]) -> Vec<String> {
    let mut highest = BTreeMap::new();
    for (bid, at) in bids(events) {
        let price: &mut u64 = highest.entry(at.div_euclid(WINDOW_MS)).or_default();
        *price = bid.price.max(*price);
    }
    let is_highest = |(bid, at): &(&Bid, i64)| highest[&at.div_euclid(WINDOW_MS)] == bid.price;
    let line =
        |(bid, at): (&Bid, i64)| format!("{},{},{},{},{}", bid.auction, bid.price, bid.bidder, stamp(at), bid.extra);
    bids(events).filter(is_highest).map(line).collect()
}

fn new_users(events: &[Timed]) -> Vec<String> {
    let (mut came, mut sold) = (BTreeSet::new(), BTreeSet::new());
    for timed in events {
        let window = timed.time_ms.div_euclid(WINDOW_MS);
        match &timed.event {
            Event::Person(Person { id, name }) => drop(came.insert((*id, name.clone(), window))),
            Event::Auction(Auction { seller, .. }) => drop(sold.insert((*seller, window))),
            Event::Bid(_) => {}
        }
    }
    let both = came.into_iter().filter(|(id, _, window)| sold.contains(&(*id, *window)));
    both.map(|(id, name, window)| format!("{id},{name},{}", stamp(window * WINDOW_MS))).collect()
}

fn sessions(events: &[Timed]) -> Vec<String> {
    let mut times: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
    for (bid, at) in bids(events) {
        times.entry(bid.bidder).or_default().push(at);
    }
    let mut lines = Vec::new();
    for (bidder, mut times) in times {
        times.sort_unstable();
        for session in times.chunk_by(|before, after| after - before <= WINDOW_MS) {
            let (start, end) = (session[0], session[session.len() - 1] + WINDOW_MS);
            lines.push(format!("{bidder},{},{},{}", session.len(), stamp(start), stamp(end)));
        }
    }
    lines
}

fn arrivals(events: &[Timed]) -> Vec<String> {
    let mut counts: BTreeMap<(usize, i64), u64> = BTreeMap::new();
    for timed in events {
        if let Event::Bid(bid) = &timed.event {
            *counts.entry((bid.bidder, timed.arrival_ms.div_euclid(WINDOW_MS))).or_default() += 1;
        }
    }
    let bounds = |window: i64| format!("{},{}", stamp(window * WINDOW_MS), stamp((window + 1) * WINDOW_MS));
    counts.into_iter().map(|((bidder, window), count)| format!("{bidder},{count},{}", bounds(window))).collect()
}

fn calculated(events: &[Timed]) -> Vec<String> {
    let is_wanted = |(bid, _): &(&Bid, i64)| (1_000_000_001..50_000_000_000).contains(&(bid.price * 908));
    let line = |(bid, at): (&Bid, i64)| {
        let hour: u32 = stamp(at)[11..13].parse().unwrap();
        let kind = match hour {
            8..=18 => "dayTime",
            0..=6 | 20.. => "nightTime",
            _ => "otherTime",
        };
        let count = bid.extra.matches('c').count();
        format!("{},{},{},{kind},{},{},{count}", bid.auction, bid.bidder, euros(bid.price), stamp(at), bid.extra)
    };
    bids(events).filter(is_wanted).map(line).collect()
}

/// Below 100, below 10 000, and above.
fn rank(price: u64) -> usize {
    [10_000, 1_000_000].iter().filter(|bound| price >= **bound).count()
}

fn by_day(events: &[Timed]) -> impl Iterator<Item = (&Bid, String)> {
    bids(events).map(|(bid, at)| (bid, stamp(at)[..10].to_owned()))
}

/// All, and each rank: JSON's fields.
fn ranked(what: &str, [all, ranks @ ..]: &[usize; 4]) -> String {
    let ranks: Vec<String> =
        ranks.iter().enumerate().map(|(at, n)| format!(r#""rank{}_{what}":{n}"#, at + 1)).collect();
    format!(r#""total_{what}":{all},{}"#, ranks.join(","))
}

fn each_day(events: &[Timed]) -> Vec<String> {
    type Distinct = [BTreeSet<usize>; 4];
    let mut days: BTreeMap<String, ([usize; 4], Distinct, Distinct)> = BTreeMap::new();
    for (bid, day) in by_day(events) {
        let (counts, bidders, auctions) = days.entry(day).or_default();
        for at in [0, 1 + rank(bid.price)] {
            counts[at] += 1;
            bidders[at].insert(bid.bidder);
            auctions[at].insert(bid.auction);
        }
    }
    let sizes = |sets: &Distinct| sets.each_ref().map(BTreeSet::len);
    let line = |(day, (counts, bidders, auctions)): (String, ([usize; 4], Distinct, Distinct))| {
        let counts =
            [ranked("bids", &counts), ranked("bidders", &sizes(&bidders)), ranked("auctions", &sizes(&auctions))];
        format!(r#"{{"day":"{day}",{}}}"#, counts.join(","))
    };
    days.into_iter().map(line).collect()
}

fn each_auction_and_day(events: &[Timed]) -> Vec<String> {
    let mut groups: BTreeMap<(usize, String), Vec<u64>> = BTreeMap::new();
    for (bid, day) in by_day(events) {
        groups.entry((bid.auction, day)).or_default().push(bid.price);
    }
    let line = |((auction, day), prices): ((usize, String), Vec<u64>)| {
        let count = |wanted: usize| prices.iter().filter(|price| rank(**price) == wanted).count();
        let counts = ranked("bids", &[prices.len(), count(0), count(1), count(2)]);
        let (min, max, sum) = (prices.iter().min().unwrap(), prices.iter().max().unwrap(), prices.iter().sum::<u64>());
        let mean = serde_json::Value::from(sum as f64 / prices.len() as f64);
        format!(
            r#"{{"auction":{auction},"day":"{day}",{counts},"min_price":{min},"max_price":{max},"avg_price":{mean},"sum_price":{sum}}}"#
        )
    };
    groups.into_iter().map(line).collect()
}

fn last_bids(events: &[Timed]) -> Vec<String> {
    let mut last: BTreeMap<(usize, usize), (i64, &Bid)> = BTreeMap::new();
    for (bid, at) in bids(events) {
        let newest = last.entry((bid.auction, bid.bidder)).or_insert((at, bid));
        if at >= newest.0 {
            *newest = (at, bid);
        }
    }
    let line = |((auction, bidder), (at, bid)): ((usize, usize), (i64, &Bid))| {
        let (price, channel, at) = (bid.price, &bid.channel, stamp(at));
        format!(r#"{{"auction":{auction},"bidder":{bidder},"price":{price},"channel":"{channel}","date_time":"{at}"}}"#)
    };
    last.into_iter().map(line).collect()
}

fn channels(events: &[Timed]) -> Vec<String> {
    let id = |bid: &Bid| match bid.channel.as_str() {
        "Apple" => Some("0".to_owned()),
        "Google" => Some("1".to_owned()),
        "Facebook" => Some("2".to_owned()),
        "Baidu" => Some("3".to_owned()),
        _ => bid.url.split_once("&channel_id=").map(|(_, id)| id.to_owned()),
    };
    let line = |(bid, _): (&Bid, i64)| {
        Some(format!("{},{},{},{},{}", bid.auction, bid.bidder, bid.price, bid.channel, id(bid)?))
    };
    bids(events).filter_map(line).collect()
}
