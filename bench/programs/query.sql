-- Tables, indexes, joins, groups and changes; ROWS is replaced by their number.
CREATE TABLE item(id INTEGER PRIMARY KEY, kind INTEGER, price INTEGER, name TEXT);
CREATE TABLE sale(item INTEGER, day INTEGER, amount INTEGER);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ROWS)
INSERT INTO item SELECT i, i * 7919 % 53, i * 104729 % 1000, printf('item %06d', i * 31 % ROWS) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ROWS * 3)
INSERT INTO sale SELECT 1 + i * 48271 % ROWS, i % 365, 1 + i * 16807 % 9 FROM n;
COMMIT;
CREATE INDEX sale_item ON sale(item);
CREATE INDEX item_name ON item(name);
SELECT kind, count(*), sum(price * amount) FROM item JOIN sale ON sale.item = item.id
    GROUP BY kind ORDER BY 3 DESC LIMIT 5;
SELECT day, avg(amount) FROM sale GROUP BY day HAVING day % 73 = 0;
SELECT count(*) FROM item WHERE name LIKE '%99%';
SELECT name FROM item WHERE name > 'item 0005' ORDER BY name LIMIT 3;
UPDATE item SET price = price + 1 WHERE kind IN (SELECT kind FROM item WHERE price < 5);
DELETE FROM sale WHERE item IN (SELECT id FROM item WHERE kind < 10);
SELECT count(*), sum(amount) FROM sale;
SELECT sum(price), max(name) FROM item;
