-- Query 14, calculation: the price in euros, the time of the day, and how often a letter is there.
CREATE TABLE q14 WITH (
  connector = 'file', path = '${DIR}/q14/data', format = 'csv', checkpointLocation = '${DIR}/q14/checkpoint'
);

INSERT INTO q14
SELECT auction, bidder, CAST(0.908 * price AS DECIMAL(23, 3)) AS price,
       CASE WHEN date_part('hour', date_time) BETWEEN 8 AND 18 THEN 'dayTime'
            WHEN date_part('hour', date_time) <= 6 OR date_part('hour', date_time) >= 20 THEN 'nightTime'
            ELSE 'otherTime' END AS bid_time_type,
       date_time, extra,
       length(extra) - length(replace(extra, 'c', '')) AS c_counts
FROM bid
WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000;
