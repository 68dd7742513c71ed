//! What librdkafka tells of deliveries, and what its errors mean to us.

use std::sync::{Mutex, PoisonError};

use rdkafka::{
    ClientContext, Message,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryResult, ProducerContext},
};

use crate::error::{Error, ErrorKind};

/// Remembers the first row that was not delivered: the transaction cannot be committed without it.
#[derive(Debug, Default)]
pub(super) struct SinkContext {
    failure: Mutex<Option<KafkaError>>,
}

impl SinkContext {
    pub fn failure(&self) -> Option<KafkaError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn clear(&self) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ClientContext for SinkContext {
    fn error(&self, error: KafkaError, reason: &str) {
        // librdkafka tries again by itself; what it gives up comes back from the call.
        tracing::debug!(%error, reason, "Kafka producer");
    }
}

impl ProducerContext for SinkContext {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, record)) = result {
            tracing::debug!(%error, topic = record.topic(), "a row was not delivered");
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        }
    }
}

/// `what` failed with `error`.
pub(super) fn failed(what: &str, error: &KafkaError) -> Error {
    use RDKafkaErrorCode as Code;
    let code = match error {
        KafkaError::Transaction(error) => Some(error.code()),
        other => other.rdkafka_error_code(),
    };
    let (kind, help) = match code {
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::TransactionCoordinatorFenced) => {
            (
                ErrorKind::Conflict,
                "another instance of this query has taken over (stop one of the two), or the batch took longer than 'kafka.transaction.timeout.ms'",
            )
        }
        Some(
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication,
        ) => (
            ErrorKind::PermissionDenied,
            "the user needs WRITE on the topic and on the transactional id, READ on the group",
        ),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            (ErrorKind::NotFound, "check the column 'topic' and the column 'partition' of the rows")
        }
        Some(Code::MessageSizeTooLarge) => {
            (ErrorKind::Invalid, "raise 'kafka.message.max.bytes' here and max.message.bytes of the topic")
        }
        Some(Code::InvalidTransactionTimeout) => (
            ErrorKind::Invalid,
            "set 'kafka.transaction.timeout.ms' to what the broker's transaction.max.timeout.ms allows",
        ),
        Some(Code::InvalidArgument) => (ErrorKind::Invalid, "check the 'kafka.*' options and the rows' columns"),
        _ => (ErrorKind::Unavailable, "check 'kafka.bootstrap.servers' and that the brokers are up"),
    };
    Error::new(kind, format!("{what}: {error}")).help(help)
}
