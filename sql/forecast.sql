-- Forecasts of the price, five minutes ahead, by a model that learns while it forecasts.
--
--   1. put prices into Kafka     tidemill produce simulate --topic bitcointopic --model random-walk
--   2. look without running      tidemill stream sql/forecast.sql --dry-run
--   3. run it                    tidemill stream sql/forecast.sql
--   4. look at the forecasts     tidemill query --job sql/forecast.sql "SELECT * FROM forecast ORDER BY window_end"
--   5. and at the models         tidemill models list price_ahead
--
-- A backtest is the same SELECT as a query: `tidemill query` over the topic or over stored rows gives the rows that the
-- stream gives. Set the servers with -D KAFKA=... and -D HDFS=..., or in the environment.


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


CREATE TABLE forecast WITH (
  connector = 'file',
  path = '${HDFS:-hdfs://localhost:9000}/bitcoin/data/forecast',
  format = 'parquet',
  checkpointLocation = '${HDFS:-hdfs://localhost:9000}/bitcoin/data/forecast_checkpoint'
);


-- Without AS SELECT the model learns from the rows that it forecasts. It starts as the naive forecast, that the price stays
-- what it is. A challenger is trained every half hour, and when the error grows; it serves if it beats the model that
-- serves, and the naive forecast, on the newest two hours, which it has not seen.
CREATE MODEL price_ahead WITH (
  'target'  = 'close',
  'horizon' = '5 minutes',
  'retrain' = '30 minutes',
  'drift'   = 'page-hinkley',
  'holdout' = '${HOLDOUT:-2 hours}',
  'minRows' = ${MIN_ROWS:-60},
  'path'    = '${MODELS:-models}'
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


-- What is known when a candle closes. Sums are rounded: those of floating-point numbers depend on the order in which
-- they were added.
CREATE VIEW features AS
SELECT window_end,
       close,
       close - lag(close, 1) OVER w                                                                AS change_1,
       close - lag(close, 5) OVER w                                                                AS change_5,
       close - round(avg(close) OVER (ORDER BY window_end ROWS BETWEEN 14 PRECEDING AND CURRENT ROW), 6) AS above_mean_15,
       high - low                                                                                  AS spread,
       volume
FROM candles
WINDOW w AS (ORDER BY window_end);


-- Each row is a forecast, for target_time, and the truth about the forecast that was made for it five minutes before:
-- forecast, its error, the naive forecast's error on the same row, and the errors of all forecasts so far.
INSERT INTO forecast
SELECT window_end, close, prediction, target_time, model_version,
       forecast, error, naive_error, prequential_mae, prequential_rmse, prequential_skill, drift
FROM ML_FORECAST(TABLE features, MODEL price_ahead, DESCRIPTOR(window_end),
                 DESCRIPTOR(close, change_1, change_5, above_mean_15, spread, volume));
