"""Dependent values, recomputed: many small objects, dynamic dispatch, closures, ordered sets."""

import operator


class Cell:
    def __init__(self, name, value=0):
        self.name, self.value, self.rule, self.users = name, value, None, []

    def set(self, value):
        self.value = value
        for user in plan(self):
            user.value = user.rule()


def plan(cell):
    order, seen = [], set()

    def visit(one):
        if one.name not in seen:
            seen.add(one.name)
            for user in one.users:
                visit(user)
            order.append(one)

    visit(cell)
    return reversed(order[:-1])


cells = [Cell(i, i) for i in range(120)]
for i in range(2, 120):
    left, right = cells[i - 1], cells[i // 2]
    op = (operator.add, operator.sub, operator.mul)[i % 3]
    cells[i].rule = lambda left=left, right=right, op=op: op(left.value, right.value) % 1000003
    left.users.append(cells[i])
    right.users.append(cells[i])
for turn in range(800):
    cells[turn % 2].set(turn * 17)
    if turn % 50 == 0:
        print(turn, [cell.value for cell in cells[-4:]])
