-- Simulated Bitcoin prices: Kafka -> CSV files on HDFS, on which a linear regression is trained.
--
--   1. put prices into Kafka     tidemill produce simulate --topic bitcointopic
--   2. look without running      tidemill stream sql/bitcoin.sql --dry-run
--   3. run it                    tidemill stream sql/bitcoin.sql
--   4. look at the files         hdfs dfs -cat /bitcoin/data/bitcoin_data/part-*
--
-- Set the servers with -D KAFKA=... and -D HDFS=..., or in the environment.


-- One record has eight fields; the last three are the first ones, scaled to 0..1 by their usual range.
CREATE TABLE bitcoin (
  timestamp             STRING,    -- local time of the simulator, ISO 8601, kept as the text that it is
  buy_price             DOUBLE,    -- USD
  sell_price            DOUBLE,    -- USD
  volume                INT,
  volatility            DOUBLE,    -- per cent
  buy_price_normalized  DOUBLE,    -- (buy_price - 20000) / 40000
  sell_price_normalized DOUBLE,    -- (sell_price - 20000) / 40000: do not train on it, it is the answer
  volume_normalized     DOUBLE     -- (volume - 1000) / 4000
) WITH (
  connector = 'kafka',
  'kafka.bootstrap.servers' = '${KAFKA:-localhost:9092}',
  subscribe = 'bitcointopic',
  startingOffsets = 'latest',      -- the first run starts with the next record; later runs go on where they stopped
  format = 'json'
);


-- CSV without a header line, so that the files can be joined end to end; the columns stand in the order of the SELECT.
CREATE TABLE bitcoin_data WITH (
  connector = 'file',
  path = '${HDFS:-hdfs://localhost:9000}/bitcoin/data/bitcoin_data',
  format = 'csv',
  header = false,
  checkpointLocation = '${HDFS:-hdfs://localhost:9000}/bitcoin/data/ii'
);


INSERT INTO bitcoin_data
SELECT timestamp, buy_price, sell_price, volume, volatility,
       buy_price_normalized, sell_price_normalized, volume_normalized
FROM bitcoin;
