-- The streams of Nexmark (an online auction: people, what they sell, and what is bid for it), as their public definitions
-- have them. `tests/it/nexmark.rs` puts this file and the queries together to one job.

CREATE TABLE person (
  id            BIGINT,
  name          STRING,
  email_address STRING,
  credit_card   STRING,
  city          STRING,
  state         STRING,
  date_time     TIMESTAMP(3),
  extra         STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH (
  connector = 'kafka', 'kafka.bootstrap.servers' = '${KAFKA}', subscribe = '${TOPIC}-person',
  startingOffsets = 'earliest', format = 'json', maxOffsetsPerTrigger = '${PERSONS}', idleTimeout = '1 hour'
);

CREATE TABLE auction (
  id          BIGINT,
  item_name   STRING,
  description STRING,
  initial_bid BIGINT,
  reserve     BIGINT,
  date_time   TIMESTAMP(3),
  expires     TIMESTAMP(3),
  seller      BIGINT,
  category    BIGINT,
  extra       STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH (
  connector = 'kafka', 'kafka.bootstrap.servers' = '${KAFKA}', subscribe = '${TOPIC}-auction',
  startingOffsets = 'earliest', format = 'json', maxOffsetsPerTrigger = '${AUCTIONS}', idleTimeout = '1 hour'
);

CREATE TABLE bid (
  auction   BIGINT,
  bidder    BIGINT,
  price     BIGINT,                -- cents
  channel   STRING,
  url       STRING,
  date_time TIMESTAMP(3),
  extra     STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH (
  connector = 'kafka', 'kafka.bootstrap.servers' = '${KAFKA}', subscribe = '${TOPIC}-bid',
  startingOffsets = 'earliest', format = 'json', maxOffsetsPerTrigger = '${BIDS}', idleTimeout = '1 hour'
);
