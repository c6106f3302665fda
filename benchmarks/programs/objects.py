"""A small discrete simulation: classes, attributes, method calls, a heap."""

import heapq


class Station:
    def __init__(self, name, service):
        self.name, self.service = name, service
        self.queue, self.busy, self.served = [], False, 0

    def arrive(self, world, customer):
        if self.busy:
            self.queue.append(customer)
        else:
            self.begin(world, customer)

    def begin(self, world, customer):
        self.busy = True
        world.at(self.service + customer % 3, self.finish, customer)

    def finish(self, world, customer):
        self.busy = False
        self.served += 1
        if self.queue:
            self.begin(world, self.queue.pop(0))
        world.stations[(customer + self.served) % len(world.stations)].arrive(world, customer)


class World:
    def __init__(self):
        self.now, self.events, self.serial = 0, [], 0
        self.stations = [Station(f"s{i}", 2 + i % 5) for i in range(12)]

    def at(self, delay, action, customer):
        self.serial += 1
        heapq.heappush(self.events, (self.now + delay, self.serial, action, customer))

    def run(self, steps):
        for customer in range(40):
            self.stations[customer % 12].arrive(self, customer)
        for _ in range(steps):
            self.now, _, action, customer = heapq.heappop(self.events)
            action(self, customer)


world = World()
world.run(120_000)
print(world.now, sum(s.served * (i + 1) for i, s in enumerate(world.stations)))
