"""A simulation of an operating system's scheduler: objects, methods, queues, linked lists."""


class Packet:
    def __init__(self, link, ident, kind):
        self.link, self.ident, self.kind, self.data = link, ident, kind, [0] * 4

    def append_to(self, queue):
        self.link = None
        if queue is None:
            return self
        last = queue
        while last.link is not None:
            last = last.link
        last.link = self
        return queue


class Task:
    tasks: dict = {}  # noqa: RUF012

    def __init__(self, ident, priority, queue):
        self.ident, self.priority, self.queue, self.held = ident, priority, queue, False
        Task.tasks[ident] = self

    def take(self):
        packet, self.queue = self.queue, self.queue.link
        return packet

    def run(self, log):
        raise NotImplementedError


class Worker(Task):
    count = 0

    def run(self, log):
        packet = self.take()
        for i in range(4):
            Worker.count = (Worker.count * 7 + packet.ident) % 26
            packet.data[i] = Worker.count
        log.append((self.ident, packet.kind, tuple(packet.data)))
        other = Task.tasks[packet.data[0] % len(Task.tasks)]
        packet.kind = "device" if packet.kind == "work" else "work"
        other.queue = packet.append_to(other.queue)


def schedule(turns):
    log = []
    for turn in range(turns):
        ready = [task for task in Task.tasks.values() if task.queue is not None and not task.held]
        best = max(ready, key=lambda task: (task.priority * 31 + turn) % 11)
        best.run(log)
    return log


for number in range(6):
    queue = None
    for k in range(5):
        queue = Packet(queue, number * 5 + k, "work")
    Worker(number, number * 3 + 1, queue)
for part in range(10):
    done = schedule(3000)
    print(part, len(done), hash(tuple(d[0] for d in done)), done[-1])
