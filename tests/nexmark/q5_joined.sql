-- Query 5 as it is published: the counts of the windows joined with their maximum.
CREATE TABLE q5_joined WITH (
  connector = 'file', path = '${DIR}/q5_joined/data', format = 'csv', checkpointLocation = '${DIR}/q5_joined/checkpoint'
);

INSERT INTO q5_joined
SELECT bids.window_start, bids.auction, bids.num
FROM (
  SELECT window_start, window_end, auction, count(*) AS num
  FROM HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND)
  GROUP BY window_start, window_end, auction
) AS bids
JOIN (
  SELECT window_start, window_end, max(num) AS maxn
  FROM (
    SELECT window_start, window_end, auction, count(*) AS num
    FROM HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND)
    GROUP BY window_start, window_end, auction
  )
  GROUP BY window_start, window_end
) AS most
ON bids.window_start = most.window_start AND bids.window_end = most.window_end AND bids.num >= most.maxn;
