//! `kafka.*` options as a checked librdkafka configuration: our defaults below the user's, what we depend on above.

use rdkafka::{
    ClientConfig,
    config::RDKafkaLogLevel,
    error::KafkaError,
    types::RDKafkaConfRes::{RD_KAFKA_CONF_INVALID, RD_KAFKA_CONF_UNKNOWN},
};

use super::keys::{JAVA_NAMES, JAVA_ONLY, KNOWN, OURS, REFUSED};
use crate::{
    catalog::KafkaClientOptions,
    error::{Error, Result, nearest},
};

/// What all partitions of one consumer may hold in memory, fetched and not yet read.
/// librdkafka adds about as much again for its own records of the messages.
pub const FETCH_QUEUE_KIB_TOTAL: usize = 4 * 1024;
/// The least that one partition may hold, however many there are.
pub const FETCH_QUEUE_KIB_MIN: usize = 512;
/// The most that one fetch returns for one partition; a larger record still arrives, alone.
pub const FETCH_BYTES_PER_PARTITION_MAX: usize = 2 * 1024 * 1024;
/// The most that one fetch returns for all partitions.
pub const FETCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a broker holds a fetch that has nothing to return. It also bounds how late the end of a partition is seen
/// behind a transaction marker.
pub const FETCH_WAIT_MS_MAX: usize = 50;
/// How soon a full queue is looked at again. librdkafka's default of a second caps a client at a quarter million
/// messages a second.
pub const FETCH_BACKOFF_MS: usize = 5;

/// A consumer of `partitions` partitions. It reads through librdkafka's simple consumer, so it joins no group.
///
/// # Errors
/// `Invalid` naming the option; `Unsupported` where the build lacks TLS.
pub fn consumer_config(options: &KafkaClientOptions, partitions: usize) -> Result<ClientConfig> {
    let queue_kib = (FETCH_QUEUE_KIB_TOTAL / partitions.max(1)).max(FETCH_QUEUE_KIB_MIN);
    let fetch_bytes = (queue_kib * 1024).min(FETCH_BYTES_PER_PARTITION_MAX);
    let mut config = base();
    config
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", FETCH_BACKOFF_MS.to_string())
        .set("fetch.wait.max.ms", FETCH_WAIT_MS_MAX.to_string())
        .set("fetch.error.backoff.ms", "100")
        .set("fetch.message.max.bytes", fetch_bytes.to_string())
        .set("fetch.max.bytes", FETCH_BYTES_MAX.to_string())
        // Bytes are the limit that holds; a count would starve small records.
        .set("queued.min.messages", "1000000")
        .set("queued.max.messages.kbytes", queue_kib.to_string());
    apply(&mut config, options, Role::Consumer)?;
    // Offsets live in our checkpoint. A silent reset would lose or repeat records, so it must be an error.
    config
        .set("enable.auto.commit", "false")
        .set("auto.commit.enable", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true");
    Ok(config)
}

/// A producer: checked as for a consumer. The caller sets what it depends on (idempotence, transactions).
///
/// # Errors
/// As [`consumer_config`].
pub fn producer_config(options: &KafkaClientOptions) -> Result<ClientConfig> {
    let mut config = base();
    apply(&mut config, options, Role::Producer)?;
    Ok(config)
}

/// `kafka.bootstrap.servers`, for error messages.
///
/// # Errors
/// `Invalid` where it is missing or empty.
pub fn bootstrap_servers(options: &KafkaClientOptions) -> Result<&str> {
    let given = options.0.get("bootstrap.servers").or_else(|| options.0.get("metadata.broker.list"));
    given.map(|s| s.trim()).filter(|s| !s.is_empty()).ok_or_else(|| {
        Error::invalid("option 'kafka.bootstrap.servers' is missing")
            .help("add 'kafka.bootstrap.servers' = 'host:9092' to the table")
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Consumer,
    Producer,
}

fn base() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("client.id", "tidemill").set("socket.keepalive.enable", "true").set("reconnect.backoff.max.ms", "2000");
    // librdkafka decides by the `log` crate, which nobody listens to here; its lines go to tracing (client.rs).
    config.set_log_level(if tracing::enabled!(target: "librdkafka", tracing::Level::DEBUG) {
        RDKafkaLogLevel::Info
    } else {
        RDKafkaLogLevel::Error
    });
    config
}

fn apply(config: &mut ClientConfig, options: &KafkaClientOptions, role: Role) -> Result<()> {
    bootstrap_servers(options)?;
    // First: without TLS librdkafka calls its properties unknown.
    check_security(options)?;
    for (key, value) in &options.0 {
        if key == "sasl.jaas.config" {
            let (user, password) = jaas(value)?;
            config.set("sasl.username", user).set("sasl.password", password);
            continue;
        }
        let name = JAVA_NAMES.iter().find(|(java, _)| java == key).map_or(key.as_str(), |(_, ours)| ours);
        refuse(name, role)?;
        check(name, key, value)?;
        config.set(name, value);
    }
    Ok(())
}

fn refuse(key: &str, role: Role) -> Result<()> {
    if let Some((_, help)) = JAVA_ONLY.iter().find(|(java, _)| *java == key) {
        return Err(Error::invalid(format!("option 'kafka.{key}' is for Java clients only")).help(*help));
    }
    let opaque = key.ends_with("_cb") || key.starts_with("test.mock.");
    if opaque || REFUSED.contains(&key) {
        return Err(Error::invalid(format!("option 'kafka.{key}' is refused: it could run or load other code")));
    }
    if role == Role::Consumer && OURS.iter().any(|(ours, _)| *ours == key) {
        let help = OURS.iter().find(|(ours, _)| *ours == key).map_or("", |(_, help)| help);
        return Err(Error::invalid(format!("option 'kafka.{key}' cannot be set: Tidemill sets it itself")).help(help));
    }
    Ok(())
}

/// Tries one property alone, so that the error can name it. The value is never shown: it may be a secret.
fn check(name: &str, key: &str, value: &str) -> Result<()> {
    let mut one = ClientConfig::new();
    one.set(name, value);
    match one.create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RD_KAFKA_CONF_UNKNOWN, ..)) => {
            let error = Error::invalid(format!("unknown option 'kafka.{key}'"));
            Err(match nearest(key, KNOWN.iter().copied()) {
                Some(near) => error.help(format!("did you mean 'kafka.{near}'?")),
                None => error.help("librdkafka's CONFIGURATION.md lists the properties of a Kafka client"),
            })
        }
        Err(KafkaError::ClientConfig(RD_KAFKA_CONF_INVALID, reason, ..)) => {
            // librdkafka explains a bad choice or number, and may quote it.
            let reason = if is_secret(name) || (!value.is_empty() && reason.contains(value) && value.len() > 32) {
                String::new()
            } else {
                format!(": {reason}")
            };
            Err(Error::invalid(format!("option 'kafka.{key}' has a value that librdkafka refuses{reason}")))
        }
        Err(_) => Err(Error::invalid(format!("option 'kafka.{key}' has a value that librdkafka refuses"))),
    }
}

fn is_secret(key: &str) -> bool {
    ["password", "secret", "pem", "token", "passphrase", "username"].iter().any(|part| key.contains(part))
}

fn check_security(options: &KafkaClientOptions) -> Result<()> {
    if cfg!(feature = "tls") {
        return Ok(());
    }
    let given = |key: &str| options.0.get(key).map(|value| value.to_ascii_uppercase());
    let lacking = |what: String| {
        Err(Error::unsupported(format!("{what}, which this build does not support")).help("build with --features tls"))
    };
    if let Some(protocol) = given("security.protocol").filter(|p| p.ends_with("SSL")) {
        return lacking(format!("option 'kafka.security.protocol' asks for {protocol}"));
    }
    let mechanism = given("sasl.mechanism").or_else(|| given("sasl.mechanisms"));
    // Without OpenSSL librdkafka has the PLAIN mechanism only.
    if let Some(mechanism) = mechanism.filter(|m| m != "PLAIN" && m != "GSSAPI") {
        return lacking(format!("option 'kafka.sasl.mechanism' asks for {mechanism}"));
    }
    Ok(())
}

/// `...LoginModule required username="u" password="p";`, for the mechanisms that need no more.
fn jaas(text: &str) -> Result<(String, String)> {
    let field = |name: &str| {
        let (_, rest) = text.split_once(&format!("{name}="))?;
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        rest[1..].split_once(quote).map(|(value, _)| value.to_owned())
    };
    field("username").zip(field("password")).ok_or_else(|| {
        Error::invalid("option 'kafka.sasl.jaas.config' has no username=\"...\" and password=\"...\"")
            .help("set 'kafka.sasl.username' and 'kafka.sasl.password' instead")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn options(extra: &[(&str, &str)]) -> KafkaClientOptions {
        let all = [("bootstrap.servers", "127.0.0.1:1")].iter().chain(extra);
        KafkaClientOptions(all.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    fn refused(key: &str, value: &str) -> Error {
        consumer_config(&options(&[(key, value)]), 1).unwrap_err()
    }

    #[test]
    fn every_default_and_known_name_is_one_librdkafka_has() {
        consumer_config(&options(&[]), 3).unwrap().create_native_config().unwrap();
        producer_config(&options(&[])).unwrap().create_native_config().unwrap();
        for key in KNOWN {
            let mut one = ClientConfig::new();
            one.set(*key, "");
            let unknown =
                matches!(one.create_native_config(), Err(KafkaError::ClientConfig(RD_KAFKA_CONF_UNKNOWN, ..)));
            assert!(
                !unknown || key.starts_with("ssl.") || key.starts_with("sasl.") || key.starts_with("https."),
                "{key}"
            );
        }
    }

    #[test]
    fn a_misspelt_key_gets_a_suggestion_and_a_bad_value_a_reason() {
        let error = refused("fetch.wait.max.msec", "5");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("'kafka.fetch.wait.max.msec'"), "{error}");
        assert!(error.to_string().contains("did you mean 'kafka.fetch.wait.max.ms'?"), "{error}");
        let error = refused("isolation.level", "read_everything");
        assert!(error.to_string().contains("kafka.isolation.level"), "{error}");
    }

    #[test]
    fn java_spellings_are_mapped_or_explained() {
        let jaas = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"u\" password=\"p w\";";
        let config = consumer_config(&options(&[("fetch.max.wait.ms", "7"), ("sasl.jaas.config", jaas)]), 1).unwrap();
        assert_eq!(config.get("fetch.wait.max.ms"), Some("7"));
        assert_eq!(config.get("sasl.password"), Some("p w"));
        assert!(refused("max.poll.records", "5").to_string().contains("maxOffsetsPerTrigger"));
        assert!(refused("auto.offset.reset", "latest").to_string().contains("startingOffsets"));
        assert!(refused("value.deserializer", "x").to_string().contains("Java"));
    }

    #[test]
    fn keys_that_load_code_are_refused() {
        for key in ["plugin.library.paths", "sasl.kerberos.kinit.cmd", "socket_cb", "test.mock.num.brokers"] {
            assert!(refused(key, "3").to_string().contains(key), "{key}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let error = refused("sasl.jaas.config", "username=\"bob\" passwort=\"hunter2\"");
        assert!(!format!("{error:?}{error}").contains("hunter2"));
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn tls_needs_its_feature() {
        for (key, value) in [("security.protocol", "sasl_ssl"), ("sasl.mechanism", "SCRAM-SHA-256")] {
            let error = refused(key, value);
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("--features tls"));
        }
    }

    #[test]
    fn the_fetch_queue_is_shared_among_partitions() {
        let queue =
            |n| consumer_config(&options(&[]), n).unwrap().get("queued.max.messages.kbytes").unwrap().to_owned();
        assert_eq!((queue(1).as_str(), queue(4).as_str(), queue(1000).as_str()), ("4096", "1024", "512"));
    }

    #[test]
    fn servers_are_required() {
        let error = consumer_config(&KafkaClientOptions::default(), 1).unwrap_err();
        assert!(error.to_string().contains("kafka.bootstrap.servers"));
    }
}
