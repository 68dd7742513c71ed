-- Query 11, user sessions: how many bids each bidder made without a pause of ten seconds.
CREATE TABLE q11 WITH (
  connector = 'file', path = '${DIR}/q11/data', format = 'csv', checkpointLocation = '${DIR}/q11/checkpoint'
);

INSERT INTO q11
SELECT bidder, count(*) AS bid_count, window_start, window_end
FROM SESSION(TABLE bid PARTITION BY bidder, DESCRIPTOR(date_time), INTERVAL '10' SECOND)
GROUP BY bidder, window_start, window_end;
