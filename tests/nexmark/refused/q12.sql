-- Query 12 over the clock of the job instead of the time at which Kafka took the record: when a batch is run again after a
-- crash its rows would be in other windows, and a batch query would never give the same.
CREATE TABLE q12 WITH (
  connector = 'file', path = '${DIR}/q12/data', format = 'csv', checkpointLocation = '${DIR}/q12/checkpoint'
);

INSERT INTO q12
SELECT bidder, count(*) AS bid_count, window_start, window_end
FROM TUMBLE((SELECT bidder, now() AS arrived FROM bid), arrived, INTERVAL '10' SECOND)
GROUP BY bidder, window_start, window_end;
