/* Binary trees, made and freed: recursion around malloc. */
#include <stdio.h>
#include <stdlib.h>
struct tree { struct tree *left, *right; };
static struct tree *made(int depth) {
  struct tree *tree = malloc(sizeof *tree);
  tree->left = depth ? made(depth - 1) : NULL;
  tree->right = depth ? made(depth - 1) : NULL;
  return tree;
}
static int counted(const struct tree *tree) {
  return tree ? 1 + counted(tree->left) + counted(tree->right) : 0;
}
static void dropped(struct tree *tree) {
  if (!tree) return;
  dropped(tree->left);
  dropped(tree->right);
  free(tree);
}
int main(void) {
  int sum = 0;
  for (int depth = 4; depth <= 18; depth += 2)
    for (int round = 0; round < 1 << (20 - depth); round++) {
      struct tree *tree = made(depth);
      sum += counted(tree);
      dropped(tree);
    }
  printf("trees %d\n", sum);
  return 0;
}
