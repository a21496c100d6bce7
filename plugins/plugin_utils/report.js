
for (const command of document.querySelectorAll('code.command')) {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Copy';
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(command.textContent);
      button.textContent = 'Copied';
    } catch {
      getSelection().selectAllChildren(command);
      button.textContent = 'Selected';
    }
  });
  command.after(' ', button);
}
for (const box of document.querySelectorAll('#filter')) {
  box.closest('label').hidden = false;
  box.addEventListener('input', () => {
    const wanted = box.value.toLowerCase();
    for (const row of document.querySelectorAll('[data-name]'))
      row.classList.toggle('filtered', !row.dataset.name.toLowerCase().includes(wanted));
    document.body.classList.toggle('filtering', wanted !== '');
    for (const closed of document.querySelectorAll('details'))
      closed.open ||= wanted !== '' && closed.querySelector('[data-name]:not(.filtered)') !== null;
  });
}
for (const link of document.querySelectorAll('a[href^="#"]'))
  link.addEventListener('click', () => { document.querySelector(link.hash).closest('details').open = true; });
