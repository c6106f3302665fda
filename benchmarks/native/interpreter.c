/* The loop of a bytecode interpreter with a stack: one switch, taken for each instruction. */
#include <stdint.h>
#include <stdio.h>
enum operation { PUSH, LOAD, STORE, ADD, SUB, MUL, AND, LESS, JUMP, JUMP_IF_NOT, HALT };
struct instruction { enum operation operation; int argument; };
/* s = 0; for (i = 0; i < n; i++) if ((i & 3) < 2) s += i * i; else s -= i; */
static const struct instruction program[] = {
  /* 0 */ {PUSH, 0}, {STORE, 1}, {PUSH, 0}, {STORE, 2},
  /* 4 */ {LOAD, 2}, {LOAD, 0}, {LESS, 0}, {JUMP_IF_NOT, 30},
  /* 8 */ {LOAD, 2}, {PUSH, 3}, {AND, 0}, {PUSH, 2}, {LESS, 0}, {JUMP_IF_NOT, 21},
  /* 14 */ {LOAD, 1}, {LOAD, 2}, {LOAD, 2}, {MUL, 0}, {ADD, 0}, {STORE, 1}, {JUMP, 25},
  /* 21 */ {LOAD, 1}, {LOAD, 2}, {SUB, 0}, {STORE, 1},
  /* 25 */ {LOAD, 2}, {PUSH, 1}, {ADD, 0}, {STORE, 2}, {JUMP, 4},
  /* 30 */ {HALT, 0},
};
static uint32_t interpret(const struct instruction *code, uint32_t n) {
  uint32_t stack[16], variables[3] = {n, 0, 0}, *top = stack;
  for (const struct instruction *at = code;; at++) switch (at->operation) {
    case PUSH: *top++ = at->argument; break;
    case LOAD: *top++ = variables[at->argument]; break;
    case STORE: variables[at->argument] = *--top; break;
    case ADD: top--; top[-1] += *top; break;
    case SUB: top--; top[-1] -= *top; break;
    case MUL: top--; top[-1] *= *top; break;
    case AND: top--; top[-1] &= *top; break;
    case LESS: top--; top[-1] = top[-1] < *top; break;
    case JUMP: at = code + at->argument - 1; break;
    case JUMP_IF_NOT: if (!*--top) at = code + at->argument - 1; break;
    case HALT: return variables[1];
  }
}
int main(int argc, char **argv) {
  printf("interpreter %u\n", interpret(program, 5000000 + argc - 1));
  return 0;
}
