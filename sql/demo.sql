-- What `tidemill demo` runs: simulated Bitcoin prices from a Kafka topic into three directories, exactly once.
-- It is an ordinary job file. Against a Kafka of your own:
--   tidemill produce simulate --brokers localhost:9092 --topic bitcointopic --model random-walk
--   tidemill stream sql/demo.sql -D KAFKA=localhost:9092 -D DIR=/tmp/tidemill-demo

-- The records are JSON objects; a field that is missing is NULL, and a record that cannot be decoded goes to a
-- dead-letter directory beside the output with its bytes, its offset and the reason.
CREATE TABLE bitcoin (
  timestamp TIMESTAMP,      -- event time, ISO 8601
  buy_price DOUBLE,
  sell_price DOUBLE,
  volume BIGINT,
  volatility DOUBLE,
  -- A price may come a second after a newer one; later ones are late.
  WATERMARK FOR timestamp AS timestamp - INTERVAL '1' SECOND
) WITH (
  connector = 'kafka',
  'kafka.bootstrap.servers' = '${KAFKA:-localhost:9092}',
  subscribe = 'bitcointopic',
  startingOffsets = 'earliest',
  format = 'json'
);

-- Columns for analysis: Parquet.
CREATE TABLE prices WITH (
  connector = 'file',
  path = '${DIR:-tidemill-demo}/prices',
  format = 'parquet',
  checkpointLocation = '${DIR:-tidemill-demo}/checkpoints/prices'
);

-- The big trades as text, a directory for each hour.
CREATE TABLE trades WITH (
  connector = 'file',
  path = '${DIR:-tidemill-demo}/trades',
  format = 'csv',
  header = 'true',
  partitionBy = 'hour',
  checkpointLocation = '${DIR:-tidemill-demo}/checkpoints/trades'
);

-- Candles of five seconds: a window is written when the watermark passes its end.
CREATE TABLE candles WITH (
  connector = 'file',
  path = '${DIR:-tidemill-demo}/candles',
  format = 'csv',
  checkpointLocation = '${DIR:-tidemill-demo}/checkpoints/candles'
);

INSERT INTO prices
SELECT timestamp, buy_price, sell_price, sell_price - buy_price AS spread, volume, volatility FROM bitcoin;

INSERT INTO trades
SELECT timestamp, sell_price, volume, to_char(timestamp, '%Y-%m-%dT%H') AS hour FROM bitcoin WHERE volume > 4000;

INSERT INTO candles
SELECT window_start,
       first_value(sell_price ORDER BY timestamp) AS open, max(sell_price) AS high,
       min(sell_price) AS low, last_value(sell_price ORDER BY timestamp) AS close, sum(volume) AS volume
FROM TUMBLE(bitcoin, timestamp, INTERVAL '5 seconds')
GROUP BY window_start, window_end;
