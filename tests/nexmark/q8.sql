-- Query 8, new users: who came and opened an auction in the same ten seconds.
CREATE TABLE q8 WITH (
  connector = 'file', path = '${DIR}/q8/data', format = 'csv', checkpointLocation = '${DIR}/q8/checkpoint'
);

INSERT INTO q8
SELECT p.id, p.name, p.window_start
FROM (
  SELECT id, name, window_start, window_end
  FROM TUMBLE(TABLE person, DESCRIPTOR(date_time), INTERVAL '10' SECOND)
  GROUP BY id, name, window_start, window_end
) AS p
JOIN (
  SELECT seller, window_start, window_end
  FROM TUMBLE(TABLE auction, DESCRIPTOR(date_time), INTERVAL '10' SECOND)
  GROUP BY seller, window_start, window_end
) AS a
ON p.id = a.seller AND p.window_start = a.window_start AND p.window_end = a.window_end;
