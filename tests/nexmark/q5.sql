-- Query 5, hot items: the auctions with the most bids in the last ten seconds, every two seconds.
-- The rank stands in place of the join with the maximum: one aggregate instead of two, and the same rows.
CREATE TABLE q5 WITH (
  connector = 'file', path = '${DIR}/q5/data', format = 'csv', checkpointLocation = '${DIR}/q5/checkpoint'
);

INSERT INTO q5
SELECT window_start, auction, num
FROM (
  SELECT window_start, window_end, auction, num,
         rank() OVER (PARTITION BY window_start, window_end ORDER BY num DESC) AS place
  FROM (
    SELECT window_start, window_end, auction, count(*) AS num
    FROM HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND)
    GROUP BY window_start, window_end, auction
  )
)
WHERE place = 1;
