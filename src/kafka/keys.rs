//! Names of client properties: which ones librdkafka has, which ones only Java has, which ones we keep to ourselves.

/// Java's name and librdkafka's, where one value serves both.
pub(super) const JAVA_NAMES: [(&str, &str); 3] = [
    ("fetch.max.wait.ms", "fetch.wait.max.ms"),
    ("receive.buffer.bytes", "socket.receive.buffer.bytes"),
    ("send.buffer.bytes", "socket.send.buffer.bytes"),
];

/// Properties of the Java clients without a twin here, and what to do instead.
pub(super) const JAVA_ONLY: [(&str, &str); 13] = [
    ("key.deserializer", "keys and values are decoded by the table's format"),
    ("value.deserializer", "keys and values are decoded by the table's format"),
    ("key.serializer", "keys and values are encoded by the table's format"),
    ("value.serializer", "keys and values are encoded by the table's format"),
    ("interceptor.classes", "remove it"),
    ("max.poll.records", "limit a batch with 'maxOffsetsPerTrigger'"),
    ("default.api.timeout.ms", "remove it: every call has a timeout already"),
    ("buffer.memory", "set 'kafka.queue.buffering.max.kbytes'"),
    ("ssl.truststore.location", "set 'kafka.ssl.ca.location' to a PEM file"),
    ("ssl.truststore.password", "set 'kafka.ssl.ca.location' to a PEM file"),
    ("ssl.truststore.type", "set 'kafka.ssl.ca.location' to a PEM file"),
    ("ssl.keystore.type", "'kafka.ssl.keystore.location' names a PKCS#12 file"),
    ("ssl.protocol", "remove it: OpenSSL chooses the protocol"),
];

/// Properties of a consumer on which exactly-once reading depends.
pub(super) const OURS: [(&str, &str); 7] = [
    ("auto.offset.reset", "set the table's 'startingOffsets'"),
    ("enable.auto.commit", "offsets live in the checkpoint"),
    ("auto.commit.enable", "offsets live in the checkpoint"),
    ("enable.auto.offset.store", "offsets live in the checkpoint"),
    ("offset.store.method", "offsets live in the checkpoint"),
    ("enable.partition.eof", "remove it"),
    ("group.instance.id", "partitions are assigned by the job, not by a group"),
];

/// Properties that load or run code, or that hold pointers.
pub(super) const REFUSED: [&str; 9] = [
    "plugin.library.paths",
    "sasl.kerberos.kinit.cmd",
    "ssl.engine.location",
    "ssl.engine.id",
    "interceptors",
    "opaque",
    "default_topic_conf",
    "internal.termination.signal",
    "enabled_events",
];

/// What librdkafka 2.12 accepts, for suggestions.
#[rustfmt::skip]
pub(super) const KNOWN: &[&str] = &[
    "acks", "allow.auto.create.topics", "api.version.fallback.ms", "api.version.request",
    "api.version.request.timeout.ms", "auto.commit.enable", "auto.commit.interval.ms", "auto.offset.reset",
    "batch.num.messages", "batch.size", "bootstrap.servers", "broker.address.family", "broker.address.ttl",
    "broker.version.fallback", "check.crcs", "client.dns.lookup", "client.id", "client.rack", "compression.codec",
    "compression.level", "compression.type", "connections.max.idle.ms", "consume.callback.max.messages",
    "coordinator.query.interval.ms", "debug", "delivery.report.only.error", "delivery.timeout.ms",
    "enable.auto.commit", "enable.auto.offset.store", "enable.gapless.guarantee", "enable.idempotence",
    "enable.metrics.push", "enable.partition.eof", "enable.random.seed", "enable.sasl.oauthbearer.unsecure.jwt",
    "enable.ssl.certificate.verification", "fetch.error.backoff.ms", "fetch.max.bytes", "fetch.message.max.bytes",
    "fetch.min.bytes", "fetch.queue.backoff.ms", "fetch.wait.max.ms", "group.id", "group.instance.id",
    "group.protocol", "group.protocol.type", "group.remote.assignor", "heartbeat.interval.ms", "https.ca.location",
    "https.ca.pem", "isolation.level", "linger.ms", "log.connection.close", "log.thread.name", "log_level",
    "max.in.flight", "max.in.flight.requests.per.connection", "max.partition.fetch.bytes", "max.poll.interval.ms",
    "message.copy.max.bytes", "message.max.bytes", "message.send.max.retries", "message.timeout.ms",
    "metadata.broker.list", "metadata.max.age.ms", "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy", "offset.store.method", "offset.store.path", "offset.store.sync.interval.ms",
    "partition.assignment.strategy", "partitioner", "produce.offset.report", "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes", "queue.buffering.max.messages", "queue.buffering.max.ms",
    "queued.max.messages.kbytes", "queued.min.messages", "receive.message.max.bytes", "reconnect.backoff.jitter.ms",
    "reconnect.backoff.max.ms", "reconnect.backoff.ms", "request.required.acks", "request.timeout.ms", "retries",
    "retry.backoff.max.ms", "retry.backoff.ms", "sasl.kerberos.keytab", "sasl.kerberos.min.time.before.relogin",
    "sasl.kerberos.principal", "sasl.kerberos.service.name", "sasl.mechanism", "sasl.mechanisms",
    "sasl.oauthbearer.assertion.algorithm", "sasl.oauthbearer.assertion.claim.aud",
    "sasl.oauthbearer.assertion.claim.exp.seconds", "sasl.oauthbearer.assertion.claim.iss",
    "sasl.oauthbearer.assertion.claim.jti.include", "sasl.oauthbearer.assertion.claim.nbf.seconds",
    "sasl.oauthbearer.assertion.claim.sub", "sasl.oauthbearer.assertion.file",
    "sasl.oauthbearer.assertion.jwt.template.file", "sasl.oauthbearer.assertion.private.key.file",
    "sasl.oauthbearer.assertion.private.key.passphrase", "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.client.credentials.client.id", "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.client.id", "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config",
    "sasl.oauthbearer.extensions", "sasl.oauthbearer.grant.type", "sasl.oauthbearer.metadata.authentication.type",
    "sasl.oauthbearer.method", "sasl.oauthbearer.scope", "sasl.oauthbearer.token.endpoint.url", "sasl.password",
    "sasl.username", "security.protocol", "session.timeout.ms", "socket.blocking.max.ms",
    "socket.connection.setup.timeout.ms", "socket.keepalive.enable", "socket.max.fails", "socket.nagle.disable",
    "socket.receive.buffer.bytes", "socket.send.buffer.bytes", "socket.timeout.ms", "ssl.ca.certificate.stores",
    "ssl.ca.location", "ssl.ca.pem", "ssl.certificate.location", "ssl.certificate.pem", "ssl.cipher.suites",
    "ssl.crl.location", "ssl.curves.list", "ssl.endpoint.identification.algorithm", "ssl.key.location",
    "ssl.key.password", "ssl.key.pem", "ssl.keystore.location", "ssl.keystore.password", "ssl.providers",
    "ssl.sigalgs.list", "statistics.interval.ms", "sticky.partitioning.linger.ms", "topic.blacklist",
    "topic.metadata.propagation.max.ms", "topic.metadata.refresh.fast.cnt", "topic.metadata.refresh.fast.interval.ms",
    "topic.metadata.refresh.interval.ms", "topic.metadata.refresh.sparse", "transaction.timeout.ms",
    "transactional.id",
];
