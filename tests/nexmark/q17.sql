-- Query 17, statistics of each auction and day, as they change.
CREATE TABLE q17 WITH (
  connector = 'kafka', 'kafka.bootstrap.servers' = '${KAFKA}', topic = '${TOPIC}-q17', 'key.fields' = 'auction,day',
  outputMode = 'update', checkpointLocation = '${DIR}/q17/checkpoint'
);

INSERT INTO q17
SELECT auction,
       to_char(date_time, '%Y-%m-%d')                             AS day,
       count(*)                                                   AS total_bids,
       count(*) FILTER (WHERE price < 10000)                      AS rank1_bids,
       count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
       count(*) FILTER (WHERE price >= 1000000)                   AS rank3_bids,
       min(price)                                                 AS min_price,
       max(price)                                                 AS max_price,
       avg(price)                                                 AS avg_price,
       sum(price)                                                 AS sum_price
FROM bid
GROUP BY auction, to_char(date_time, '%Y-%m-%d');
