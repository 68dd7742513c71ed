//! People, auctions and bids in the proportions of Nexmark's generator (1 : 3 : 46), from a seed.
//!
//! <https://github.com/nexmark/nexmark>: a share of the bids goes to a hot auction, from a hot bidder, over a hot channel.
//! The events go on by a fixed time and come up to two seconds out of order.

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

const PERSONS: usize = 1;
const AUCTIONS: usize = 3;
const PROPORTION: usize = 50;
const FIRST_ID: usize = 1000;
const IN_FLIGHT_AUCTIONS: usize = 100;
const HOT_AUCTIONS: usize = 100;
const SPACING_MS: i64 = 25;
const LATE_MS: i64 = 2_000;

/// 2024-01-01T18:59:20Z: the day's hours of query 14 end after 40 seconds.
const FIRST_MS: i64 = 1_704_135_560_000;
/// The last quarter is of the next day: 2024-01-02T00:00:00Z.
const NEXT_DAY_MS: i64 = 1_704_153_600_000;
/// Behind everything, so that the watermark passes it all: 2024-01-03T12:00:00Z.
const END_MS: i64 = 1_704_283_200_000;

#[derive(Debug, Clone)]
pub struct Person {
    pub id: usize,
    pub name: String,
}

#[derive(Debug, Clone)]
pub struct Auction {
    pub id: usize,
    pub seller: usize,
}

#[derive(Debug, Clone)]
pub struct Bid {
    pub auction: usize,
    pub bidder: usize,
    pub price: u64,
    pub channel: String,
    pub url: String,
    pub extra: String,
}

#[derive(Debug, Clone)]
pub enum Event {
    Person(Person),
    Auction(Auction),
    Bid(Bid),
}

/// An event, when it happened and when it came: milliseconds since the epoch.
#[derive(Debug, Clone)]
pub struct Timed {
    pub event: Event,
    pub time_ms: i64,
    pub arrival_ms: i64,
    /// Of the record.
    pub partition: i32,
    pub json: String,
}

/// The events in the order in which they come; at the end, one of each kind for each partition, a day later.
pub fn events(seed: u64, count: usize, partitions: i32) -> Vec<Timed> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut all: Vec<Timed> = Vec::new();
    for number in 0..count {
        let offset = i64::try_from(number).unwrap() * SPACING_MS;
        let last_quarter = number >= count * 3 / 4;
        let time_ms = if last_quarter { NEXT_DAY_MS } else { FIRST_MS } + offset;
        let partition = rng.random_range(0..partitions);
        let event = event(&mut rng, number);
        all.push(timed(event, time_ms, time_ms + rng.random_range(0..LATE_MS), partition));
    }
    all.sort_by_key(|timed| timed.arrival_ms);
    for partition in 0..partitions {
        for number in 0..=PERSONS + AUCTIONS {
            if number <= PERSONS || number > AUCTIONS {
                all.push(timed(event(&mut rng, number), END_MS, END_MS, partition));
            }
        }
    }
    all
}

fn event(rng: &mut ChaCha8Rng, number: usize) -> Event {
    let (epoch, offset) = (number / PROPORTION, number % PROPORTION);
    let person = FIRST_ID + epoch;
    let auction = FIRST_ID + epoch * AUCTIONS + offset.saturating_sub(PERSONS).min(AUCTIONS - 1);
    match offset {
        0 => Event::Person(Person { id: person, name: format!("{} {}", pick(rng, NAMES), pick(rng, FAMILIES)) }),
        1..=AUCTIONS => {
            // Some sell as soon as they have come.
            let seller = if rng.random_ratio(3, 4) { person } else { rng.random_range(FIRST_ID..=person) };
            Event::Auction(Auction { id: auction, seller })
        }
        _ => Event::Bid(bid(rng, person, auction)),
    }
}

fn bid(rng: &mut ChaCha8Rng, last_person: usize, last_auction: usize) -> Bid {
    let hot_auction = FIRST_ID + (last_auction - FIRST_ID) / HOT_AUCTIONS * HOT_AUCTIONS;
    let in_flight = last_auction.saturating_sub(IN_FLIGHT_AUCTIONS).max(FIRST_ID);
    let auction = if rng.random() { hot_auction } else { rng.random_range(in_flight..=last_auction) };
    let hot_bidder = FIRST_ID + (last_person - FIRST_ID) / 10 * 10;
    let bidder = if rng.random() { hot_bidder } else { rng.random_range(FIRST_ID..=last_person) };
    // Between one and a million, evenly in its logarithm.
    let price = (10f64.powf(rng.random::<f64>() * 6.0) * 100.0).round() as u64;
    let address =
        format!("https://www.nexmark.com/{}/{}/{}/item.htm?query=1", letters(rng), letters(rng), letters(rng));
    let (channel, url) = if rng.random() {
        (pick(rng, CHANNELS).to_owned(), address)
    } else {
        let number = rng.random_range(0..20);
        let id = if rng.random_ratio(9, 10) { format!("&channel_id={number}") } else { String::new() };
        (format!("channel-{number}"), address + &id)
    };
    Bid { auction, bidder, price, channel, url, extra: letters(rng) }
}

const NAMES: &[&str] =
    &["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const FAMILIES: &[&str] = &["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const CHANNELS: &[&str] = &["Google", "Facebook", "Baidu", "Apple"];
const STATES: &[&str] = &["AZ", "CA", "ID", "OR", "WA", "WY"];

fn pick<'a>(rng: &mut ChaCha8Rng, from: &[&'a str]) -> &'a str {
    from.choose(rng).unwrap()
}

fn letters(rng: &mut ChaCha8Rng) -> String {
    let length = rng.random_range(1..12);
    (0..length).map(|_| char::from(rng.random_range(b'a'..=b'f'))).collect()
}

/// As the job's files have it: `2024-01-01T18:59:20.000`.
pub fn stamp(time_ms: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(time_ms).unwrap();
    time.format("%Y-%m-%dT%H:%M:%S%.3f").to_string()
}

fn timed(event: Event, time_ms: i64, arrival_ms: i64, partition: i32) -> Timed {
    let at = stamp(time_ms);
    let json = match &event {
        Event::Person(person) => {
            let (id, name) = (person.id, &person.name);
            let state = STATES[id % STATES.len()];
            format!(
                r#"{{"id":{id},"name":"{name}","email_address":"{id}@example.com","credit_card":"1234 5678","city":"Boise","state":"{state}","date_time":"{at}","extra":""}}"#
            )
        }
        Event::Auction(auction) => {
            let (id, seller, expires) = (auction.id, auction.seller, stamp(time_ms + 10_000));
            format!(
                r#"{{"id":{id},"item_name":"item {id}","description":"","initial_bid":100,"reserve":200,"date_time":"{at}","expires":"{expires}","seller":{seller},"category":{},"extra":""}}"#,
                10 + id % 5
            )
        }
        Event::Bid(bid) => {
            let Bid { auction, bidder, price, channel, url, extra } = bid;
            format!(
                r#"{{"auction":{auction},"bidder":{bidder},"price":{price},"channel":"{channel}","url":"{url}","date_time":"{at}","extra":"{extra}"}}"#
            )
        }
    };
    Timed { event, time_ms, arrival_ms, partition, json }
}
