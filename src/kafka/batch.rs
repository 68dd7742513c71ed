//! Messages many at a time: the one place where this crate calls C by itself.
//!
//! librdkafka's batch call costs half the CPU of its `poll` (rust-rdkafka has only the latter). A partition is read
//! through the simple consumer: `rd_kafka_consume_start_queue` sends its messages to a queue of ours from the first
//! one on. With `assign`, the first messages can reach the consumer's main queue before ours is in place, and would be
//! missed. The simple consumer also needs no group, so no coordinator and no ACL for one.
#![expect(unsafe_code, reason = "rust-rdkafka has no batch call; every block says why it is sound")]

use std::{
    borrow::Cow,
    ffi::{CStr, CString, c_char, c_void},
    ptr::{self, NonNull},
    slice,
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    consumer::Consumer,
    error::{KafkaError, RDKafkaErrorCode as Code},
};
use rdkafka_sys as sys;
use sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;

use super::{KafkaRecord, client::NativeConsumer};
use crate::error::{Error, Result};

/// The most messages that one call takes.
pub const MESSAGES_PER_CALL_MAX: usize = 2048;

/// One partition being fetched into a queue of its own. Dropping it stops the fetching and discards the queue.
pub struct PartitionQueue {
    /// Keeps the client alive, so `topic` and `queue` stay valid.
    consumer: Arc<NativeConsumer>,
    topic: NonNull<sys::rd_kafka_topic_t>,
    queue: NonNull<sys::rd_kafka_queue_t>,
    name: Arc<str>,
    partition: i32,
}

// SAFETY: librdkafka's handles may be used from any thread ("librdkafka is completely thread-safe", its
// INTRODUCTION.md), and `PartitionQueue` owns its two.
unsafe impl Send for PartitionQueue {}

impl std::fmt::Debug for PartitionQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PartitionQueue({}-{})", self.name, self.partition)
    }
}

impl PartitionQueue {
    /// Starts fetching at `offset`. The partition must not be fetched by `consumer` already.
    ///
    /// # Errors
    /// The code with which librdkafka refuses.
    pub fn start(consumer: Arc<NativeConsumer>, name: &str, partition: i32, offset: i64) -> Result<Self, KafkaError> {
        let c_name = CString::new(name)?;
        let client = consumer.client().native_ptr();
        // SAFETY: `client` is alive as long as `consumer`; the name is a C string; a null configuration means the
        // client's default.
        let topic = unsafe { sys::rd_kafka_topic_new(client, c_name.as_ptr(), ptr::null_mut()) };
        let topic = NonNull::new(topic).ok_or_else(last_error)?;
        // SAFETY: as above; the function cannot fail.
        let queue = unsafe { sys::rd_kafka_queue_new(client) };
        let Some(queue) = NonNull::new(queue) else {
            // SAFETY: we own this reference and nothing else has seen it.
            unsafe { sys::rd_kafka_topic_destroy(topic.as_ptr()) };
            return Err(last_error());
        };
        // SAFETY: both handles belong to this client and are alive.
        let failed = unsafe { sys::rd_kafka_consume_start_queue(topic.as_ptr(), partition, offset, queue.as_ptr()) };
        if failed != 0 {
            let error = last_error();
            // SAFETY: we own both references, and fetching did not start.
            unsafe {
                sys::rd_kafka_queue_destroy(queue.as_ptr());
                sys::rd_kafka_topic_destroy(topic.as_ptr());
            }
            return Err(error);
        }
        Ok(Self { consumer, topic, queue, name: name.into(), partition })
    }

    /// Takes what is there, at most `count`; waits until there are `count` or `timeout` has passed.
    pub fn take(&self, count: usize, timeout: Duration) -> Messages {
        let count = count.clamp(1, MESSAGES_PER_CALL_MAX);
        let mut pointers: Vec<*mut sys::rd_kafka_message_t> = Vec::with_capacity(count);
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is alive; the buffer has room for `count` pointers.
        let taken =
            unsafe { sys::rd_kafka_consume_batch_queue(self.queue.as_ptr(), timeout_ms, pointers.as_mut_ptr(), count) };
        let taken = usize::try_from(taken).unwrap_or(0).min(count);
        // SAFETY: the call has written `taken` pointers, and taken <= count = capacity.
        unsafe { pointers.set_len(taken) };
        Messages { pointers, name: self.name.clone(), partition: self.partition, _consumer: self.consumer.clone() }
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: both handles are ours and alive; fetching was started and is stopped once, here. The stop is local:
        // it waits for librdkafka's threads, not for a broker. Destroying the queue discards what it holds.
        unsafe {
            sys::rd_kafka_consume_stop(self.topic.as_ptr(), self.partition);
            sys::rd_kafka_queue_destroy(self.queue.as_ptr());
            sys::rd_kafka_topic_destroy(self.topic.as_ptr());
        }
    }
}

/// What stands at one place of a [`Messages`].
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Record {
        offset: i64,
    },
    /// All that a consumer may read before `offset` has been read, and nothing more is there now.
    EndOfPartition {
        offset: i64,
    },
    Error {
        code: Code,
        text: String,
    },
}

/// Messages of one partition, in order, that belong to us until they are dropped.
pub struct Messages {
    /// Valid, owned by us alone, destroyed once by `Drop`.
    pointers: Vec<*mut sys::rd_kafka_message_t>,
    name: Arc<str>,
    partition: i32,
    /// Messages must not outlive their client.
    _consumer: Arc<NativeConsumer>,
}

// SAFETY: a message is owned by whoever took it and is tied to no thread.
unsafe impl Send for Messages {}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Messages({} of {}-{})", self.pointers.len(), self.name, self.partition)
    }
}

impl Messages {
    pub fn len(&self) -> usize {
        self.pointers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pointers.is_empty()
    }

    /// What stands at `index`, if it is inside.
    pub fn event(&self, index: usize) -> Option<Event> {
        let pointer = *self.pointers.get(index)?;
        // SAFETY: the pointer is valid until `self` is dropped, and nobody writes through it.
        let message = unsafe { &*pointer };
        if message.err == RD_KAFKA_RESP_ERR_NO_ERROR {
            return Some(Event::Record { offset: message.offset });
        }
        Some(match Code::from(message.err) {
            Code::PartitionEOF => Event::EndOfPartition { offset: message.offset },
            // SAFETY: for an error, the payload is its text, `len` bytes long or null.
            code => Event::Error {
                code,
                text: unsafe { bytes(message.payload, message.len) }
                    .map_or_else(|| code.to_string(), |text| String::from_utf8_lossy(text).into_owned()),
            },
        })
    }

    /// Shows the records from `from` up to `to`, which must all be records, to `look`.
    ///
    /// # Errors
    /// Those of `look`; `Internal` if there is an error event between.
    pub fn records<R>(
        &self,
        from: usize,
        to: usize,
        with_headers: bool,
        look: impl FnOnce(&[KafkaRecord<'_>]) -> Result<R>,
    ) -> Result<R> {
        let pointers = self.pointers.get(from..to).unwrap_or_default();
        // Headers lie in one list for the whole batch, and each record borrows its part.
        let mut headers: Vec<(Cow<'_, str>, Option<&[u8]>)> = Vec::new();
        let mut header_ends: Vec<usize> = Vec::new();
        if with_headers {
            for pointer in pointers {
                // SAFETY: valid until `self` is dropped, and we hold `&self`.
                unsafe { read_headers(*pointer, &mut headers) };
                header_ends.push(headers.len());
            }
        }
        let headers: Vec<(&str, Option<&[u8]>)> = headers.iter().map(|(name, value)| (name.as_ref(), *value)).collect();
        let mut records = Vec::with_capacity(pointers.len());
        let mut header_start = 0;
        for (index, pointer) in pointers.iter().enumerate() {
            // SAFETY: valid until `self` is dropped; the records borrow from `self`, so they cannot outlive it.
            let message = unsafe { &**pointer };
            if message.err != RD_KAFKA_RESP_ERR_NO_ERROR {
                return Err(Error::internal(format!("an error event among the records of {}", self.name)));
            }
            let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
            // SAFETY: the message is valid, and `kind` lives through the call.
            let timestamp = unsafe { sys::rd_kafka_message_timestamp(message, &raw mut kind) };
            let header_end = header_ends.get(index).copied().unwrap_or(0);
            records.push(KafkaRecord {
                topic: &self.name,
                partition: message.partition,
                offset: message.offset,
                timestamp_ms: (timestamp >= 0).then_some(timestamp),
                timestamp_type: kind as i32 - 1,
                // SAFETY: librdkafka keeps key and payload, of these lengths, as long as the message.
                key: unsafe { bytes(message.key, message.key_len) },
                value: unsafe { bytes(message.payload, message.len) },
                headers: headers.get(header_start..header_end).unwrap_or_default(),
            });
            header_start = header_end;
        }
        look(&records)
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        for pointer in &self.pointers {
            // SAFETY: owned by us, and destroyed once: nothing else takes a pointer out of the list.
            unsafe { sys::rd_kafka_message_destroy(*pointer) };
        }
    }
}

/// A null pointer is an absent value; an empty one is not null.
///
/// # Safety
/// `pointer` is null or points to `len` bytes that live as long as `'a`.
unsafe fn bytes<'a>(pointer: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: promised by the caller.
    (!pointer.is_null()).then(|| unsafe { slice::from_raw_parts(pointer.cast::<u8>(), len) })
}

/// Appends the headers of one message.
///
/// # Safety
/// `message` is valid, and stays so for `'a`: its headers belong to it.
unsafe fn read_headers<'a>(message: *mut sys::rd_kafka_message_t, headers: &mut Vec<(Cow<'a, str>, Option<&'a [u8]>)>) {
    let mut list = ptr::null_mut();
    // SAFETY: the message is valid; `list` is written only on success, and stays owned by the message.
    if unsafe { sys::rd_kafka_message_headers(message, &raw mut list) } != RD_KAFKA_RESP_ERR_NO_ERROR {
        return; // There are none.
    }
    for index in 0.. {
        let (mut name, mut value, mut len): (*const c_char, *const c_void, usize) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the list is valid; the three places live through the call; past the last header it says so.
        let code = unsafe { sys::rd_kafka_header_get_all(list, index, &raw mut name, &raw mut value, &raw mut len) };
        if code != RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            return;
        }
        // SAFETY: on success the name is a C string, and the value null or `len` bytes, both owned by the message.
        headers.push(unsafe { (CStr::from_ptr(name).to_string_lossy(), bytes(value, len)) });
    }
}

fn last_error() -> KafkaError {
    // SAFETY: reads a thread-local number.
    KafkaError::MessageConsumption(unsafe { sys::rd_kafka_last_error() }.into())
}
