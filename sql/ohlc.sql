-- One-minute candles of simulated Bitcoin prices: Kafka -> windows in event time -> Parquet files on HDFS.
--
--   1. put prices into Kafka     tidemill produce simulate --topic bitcointopic --model random-walk
--   2. look without running      tidemill stream sql/ohlc.sql --dry-run
--   3. run it                    tidemill stream sql/ohlc.sql
--   4. look at the candles       tidemill query --job sql/ohlc.sql "SELECT * FROM ohlc ORDER BY window_start"
--
-- Set the servers with -D KAFKA=... and -D HDFS=..., or in the environment.


CREATE TABLE bitcoin (
  timestamp  TIMESTAMP,            -- when the price was made: the event time
  buy_price  DOUBLE,               -- USD
  sell_price DOUBLE,               -- USD
  volume     BIGINT,

  -- A price may come 10 seconds after a newer one. When the newest one is 10 seconds past a minute's end, that minute's
  -- candle is written, whole and once; what comes later goes to the directory ohlc_late, with its reason.
  WATERMARK FOR timestamp AS timestamp - INTERVAL '10' SECOND
) WITH (
  connector = 'kafka',
  'kafka.bootstrap.servers' = '${KAFKA:-localhost:9092}',
  subscribe = '${TOPIC:-bitcointopic}',
  startingOffsets = '${START:-latest}',
  format = 'json',

  -- When no prices come for half a minute, the clock goes on in their place, so that the last candle is written too.
  idleTimeout = '30 seconds',
  idleWatermark = 'advance'
);


CREATE TABLE ohlc WITH (
  connector = 'file',
  path = '${HDFS:-hdfs://localhost:9000}/bitcoin/data/ohlc',
  format = 'parquet',
  partitionBy = 'day',
  checkpointLocation = '${HDFS:-hdfs://localhost:9000}/bitcoin/data/ohlc_checkpoint'
);


-- Open and close are the first and the last price by event time, in whatever order the records came.
INSERT INTO ohlc
SELECT window_start,
       window_end,
       first_value(sell_price ORDER BY timestamp) AS open,
       max(sell_price)                            AS high,
       min(sell_price)                            AS low,
       last_value(sell_price ORDER BY timestamp)  AS close,
       sum(volume)                                AS volume,
       sum(sell_price * volume) / sum(volume)     AS vwap,
       count(*)                                   AS prices,
       CAST(window_start AS DATE)                 AS day
FROM TUMBLE(bitcoin, timestamp, INTERVAL '1 minute')
GROUP BY window_start, window_end;
