// Standard input in partial lines; files in the directories of the arguments: seek, append, truncate, rename, list.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv) {
  char line[300], path[300], other[300];
  int number = 0;
  while (fgets(line, sizeof line, stdin)) {
    if (number++ % 20 == 0) printf("%d %zu %.20s\n", number, strlen(line), line);
  }
  printf("%d lines, end %d\n", number, feof(stdin) != 0);
  for (int k = 1; k < argc; k++) {
    snprintf(path, sizeof path, "%s/kept", argv[k]);
    snprintf(other, sizeof other, "%s/other", argv[k]);
    FILE *file = fopen(path, "w+");
    if (!file) { printf("%s: %s\n", path, strerror(errno)); return 1; }
    for (int i = 0; i < 300; i++) {
      fprintf(file, "%06d %s\n", i, "text of the line");
      if (i % 50 == 0) { fseek(file, i * 3, SEEK_SET); fputc('#', file); fseek(file, 0, SEEK_END); fflush(file); }
    }
    int more = open(path, O_WRONLY | O_APPEND);
    for (int i = 0; i < 20; i++) if (write(more, "appended\n", 9) != 9) return 2;
    rewind(file);
    unsigned sum = 0;
    for (int c; (c = fgetc(file)) != EOF;) sum = sum * 31 + c;
    printf("%u %ld\n", sum, ftell(file));
    if (ftruncate(more, 1234) || close(more) || rename(path, other)) return 3;
    struct stat st;
    printf("%d %lld\n", stat(other, &st), (long long)st.st_size);
    fseek(file, -34, SEEK_END);
    printf("%s", fgets(line, sizeof line, file) ? line : "nothing\n");
    fclose(file);
    int count = 0;
    for (int i = 0; i < 40; i++) {
      snprintf(path, sizeof path, "%s/many%d", argv[k], i);
      int one = open(path, O_CREAT | O_RDWR, 0600);
      if (pwrite(one, path, strlen(path), i * 5) < 0) return 4;
      close(one);
    }
    DIR *listing = opendir(argv[k]);
    for (struct dirent *entry; (entry = readdir(listing));) count += entry->d_name[0] != '.';
    closedir(listing);
    for (int i = 0; i < 40; i++) {
      snprintf(path, sizeof path, "%s/many%d", argv[k], i);
      count += 100 * (unlink(path) == 0);
    }
    printf("%d %d\n", count, unlink(other));
  }
  return 0;
}
