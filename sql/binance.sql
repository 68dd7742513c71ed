-- Bitcoin's price from Binance: Kafka -> a table on the screen, and CSV files on HDFS.
--
--   1. put prices into Kafka     tidemill produce binance --topic binance-topic
--   2. look without running      tidemill stream sql/binance.sql --dry-run
--   3. run it                    tidemill stream sql/binance.sql --trigger '5 seconds'
--   4. look at the files         hdfs dfs -cat /binance/data/part-*
--
-- Ctrl-C finishes the batch and stops. Start it again and it goes on where it stopped; no price is lost or doubled.
--
-- ${KAFKA:-localhost:9092} is a variable: -D KAFKA=broker:9092 on the command line, or KAFKA in the environment, or
-- else what stands after the ":-". So this file runs on your cluster without a change.


-- Where records come from. One record is {"symbol": "BTCUSDT", "price": 97012.5}. A record that is not JSON, or has
-- a text where the price should be, costs nobody else: it goes to a dead-letter directory beside the output, with
-- its bytes, its offset and the reason.
CREATE TABLE prices (
  symbol STRING,                   -- a field that is missing in a record is null
  price  DOUBLE
) WITH (
  connector = 'kafka',
  'kafka.bootstrap.servers' = '${KAFKA:-localhost:9092}',   -- 'kafka.' options go to the Kafka client
  subscribe = 'binance-topic',     -- the topic to read; 'a,b' for several
  startingOffsets = 'latest',      -- the first run starts with the next record; 'earliest' takes what is there, too
  format = 'json'
);


-- Where rows go: the screen, as a small table for each batch.
CREATE TABLE screen WITH (
  connector = 'console',
  numRows = 20,                    -- rows shown of a batch
  truncate = false                 -- true cuts long values after 20 characters
);


-- Where rows go: one directory of CSV files, which any program can read.
CREATE TABLE stored WITH (
  connector = 'file',
  path = '${HDFS:-hdfs://localhost:9000}/binance/data',
  format = 'csv',
  header = false,                  -- true writes a line of column names into each file
  timestampFormat = 'yyyy-MM-dd HH:mm:ss.SSSSSS',           -- how a timestamp column is written, if you select one
  checkpointLocation = '${HDFS:-hdfs://localhost:9000}/binance/checkpoint'  -- what was read and written so far
);


-- Each INSERT is a streaming query of its own, and reads all of the topic. Any SQL can stand here.
INSERT INTO screen SELECT symbol, price FROM prices;

INSERT INTO stored SELECT symbol, price FROM prices;
