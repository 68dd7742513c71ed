-- Query 12, processing time windows: how many bids each bidder made in each ten seconds of the clock.
-- There is no PROCTIME(): its result would depend on when the job runs. The time at which Kafka took the record is as
-- near to it, and stays the same when the records are read again.
CREATE TABLE arrival (
  bidder  BIGINT,
  arrived TIMESTAMP(3) METADATA FROM 'timestamp',
  WATERMARK FOR arrived AS arrived - INTERVAL '0' SECOND
) WITH (
  connector = 'kafka', 'kafka.bootstrap.servers' = '${KAFKA}', subscribe = '${TOPIC}-bid',
  startingOffsets = 'earliest', format = 'json', maxOffsetsPerTrigger = '${BIDS}', idleTimeout = '1 hour'
);
CREATE TABLE q12 WITH (
  connector = 'file', path = '${DIR}/q12/data', format = 'csv', checkpointLocation = '${DIR}/q12/checkpoint'
);

INSERT INTO q12
SELECT bidder, count(*) AS bid_count, window_start, window_end
FROM TUMBLE(TABLE arrival, DESCRIPTOR(arrived), INTERVAL '10' SECOND)
GROUP BY bidder, window_start, window_end;
