"""What Python programs do: dictionaries, strings, classes, generators, big numbers.
usage: compute.py ROUNDS"""
import sys


class Matrix:
    def __init__(self, rows):
        self.rows = rows

    def __mul__(self, other):
        columns = list(zip(*other.rows))
        return Matrix([[sum(a * b for a, b in zip(row, column)) % 9973 for column in columns]
                       for row in self.rows])


def count_words(text):
    counts = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def queens(size, row=0, columns=0, left=0, right=0):
    if row == size:
        return 1
    free = ~(columns | left | right) & ((1 << size) - 1)
    solutions = 0
    while free:
        bit = free & -free
        free ^= bit
        solutions += queens(size, row + 1, columns | bit, (left | bit) << 1, (right | bit) >> 1)
    return solutions


def main(rounds):
    total = 0
    for number in range(rounds):
        words = ' '.join(f'w{(number + i * i) % 211}' for i in range(1500))
        total += count_words(words)[0][1]
        matrix = Matrix([[(i * j + number) % 97 for j in range(12)] for i in range(12)])
        total += (matrix * matrix).rows[3][4]
        total += queens(6)
        total ^= pow(3, 200 + number) % 1000003
        total += len(words.replace('w1', 'word').upper())
    print(total)


main(int(sys.argv[1]))
