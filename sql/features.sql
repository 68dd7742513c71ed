-- Features for a model of the price, from one-minute candles: what was known before each minute began, and how it closed.
--
--   1. put prices into Kafka     tidemill produce simulate --topic bitcointopic --model random-walk
--   2. look without running      tidemill stream sql/features.sql --dry-run
--   3. run it                    tidemill stream sql/features.sql
--   4. train on it               tidemill train --job sql/features.sql features --target close \
--                                  --features close_1,close_2,close_3,mean_5,mean_15,spread_15,return_1,volume_1
--
-- Every feature looks at candles before the row's own: none knows anything of the minute whose close is to be predicted.
-- Set the servers with -D KAFKA=... and -D HDFS=..., or in the environment.


CREATE TABLE bitcoin (
  timestamp  TIMESTAMP,            -- when the price was made: the event time
  sell_price DOUBLE,               -- USD
  volume     BIGINT,
  WATERMARK FOR timestamp AS timestamp - INTERVAL '10' SECOND
) WITH (
  connector = 'kafka',
  'kafka.bootstrap.servers' = '${KAFKA:-localhost:9092}',
  subscribe = '${TOPIC:-bitcointopic}',
  startingOffsets = '${START:-latest}',
  format = 'json'
);


CREATE TABLE features WITH (
  connector = 'file',
  path = '${HDFS:-hdfs://localhost:9000}/bitcoin/data/features',
  format = 'parquet',
  checkpointLocation = '${HDFS:-hdfs://localhost:9000}/bitcoin/data/features_checkpoint'
);


CREATE VIEW candles AS
SELECT window_start,
       window_end,
       max(sell_price)                           AS high,
       min(sell_price)                           AS low,
       last_value(sell_price ORDER BY timestamp) AS close,
       sum(volume)                               AS volume
FROM TUMBLE(bitcoin, timestamp, INTERVAL '1 minute')
GROUP BY window_start, window_end;


-- The first rows have NULL where there was no candle before; `tidemill train` counts such rows and leaves them out.
-- Means are rounded: sums of floating-point numbers depend on the order in which they were added.
INSERT INTO features
SELECT window_start,
       close,
       lag(close, 1) OVER w                                                             AS close_1,
       lag(close, 2) OVER w                                                             AS close_2,
       lag(close, 3) OVER w                                                             AS close_3,
       round(avg(close) OVER (ORDER BY window_start ROWS BETWEEN 5 PRECEDING AND 1 PRECEDING), 6)  AS mean_5,
       round(avg(close) OVER (ORDER BY window_start ROWS BETWEEN 15 PRECEDING AND 1 PRECEDING), 6) AS mean_15,
       max(high) OVER (ORDER BY window_start ROWS BETWEEN 15 PRECEDING AND 1 PRECEDING)
         - min(low) OVER (ORDER BY window_start ROWS BETWEEN 15 PRECEDING AND 1 PRECEDING)         AS spread_15,
       lag(close, 1) OVER w / lag(close, 2) OVER w - 1                                  AS return_1,
       lag(volume, 1) OVER w                                                            AS volume_1
FROM candles
WINDOW w AS (ORDER BY window_start);
