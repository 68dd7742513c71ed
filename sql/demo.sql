-- What `tidemill demo` runs: simulated Bitcoin prices from a Kafka topic into four directories, exactly once.
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

-- A model that learns while it forecasts: the price of a second, five seconds ahead. A random walk cannot be foretold, and
-- its skill beside the forecast that nothing changes says so.
CREATE MODEL price_ahead WITH (
  'target'  = 'price',
  'horizon' = '5 seconds',
  'retrain' = '10 seconds',
  'holdout' = '10 rows',
  'minRows' = 10,
  'path'    = '${DIR:-tidemill-demo}/models'
);

CREATE TABLE forecasts WITH (
  connector = 'file',
  path = '${DIR:-tidemill-demo}/forecasts',
  format = 'csv',
  header = 'true',
  checkpointLocation = '${DIR:-tidemill-demo}/checkpoints/forecasts'
);

CREATE VIEW seconds AS
SELECT window_end, last_value(sell_price ORDER BY timestamp) AS price, max(sell_price) - min(sell_price) AS spread
FROM TUMBLE(bitcoin, timestamp, INTERVAL '1 second')
GROUP BY window_start, window_end;

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

INSERT INTO forecasts
SELECT window_end, price, prediction, target_time, model_version, forecast, error, naive_error, prequential_rmse,
       prequential_skill, drift
FROM ML_FORECAST(TABLE (SELECT window_end, price, price - lag(price) OVER (ORDER BY window_end) AS change, spread FROM seconds),
                 MODEL price_ahead, DESCRIPTOR(window_end), DESCRIPTOR(price, change, spread));
