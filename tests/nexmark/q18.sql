-- Query 18, last bid: the newest bid of each bidder for each auction, as it changes.
-- The last value of each column stands in place of ROW_NUMBER() ... ORDER BY date_time DESC = 1, whose row changes with
-- each newer one: an aggregate in output mode update may do that.
CREATE TABLE q18 WITH (
  connector = 'kafka', 'kafka.bootstrap.servers' = '${KAFKA}', topic = '${TOPIC}-q18', 'key.fields' = 'auction,bidder',
  outputMode = 'update', checkpointLocation = '${DIR}/q18/checkpoint'
);

INSERT INTO q18
SELECT auction, bidder,
       last_value(price ORDER BY date_time)   AS price,
       last_value(channel ORDER BY date_time) AS channel,
       max(date_time)                         AS date_time
FROM bid
GROUP BY auction, bidder;
