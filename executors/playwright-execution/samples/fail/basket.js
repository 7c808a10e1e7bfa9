const status = document.querySelector('[role="status"]');
let count = 0;
let cents = 0;

for (const button of document.querySelectorAll('button')) {
  button.addEventListener('click', () => {
    count += 1;
    cents += Number(button.dataset.price);
    status.textContent = `${count} in the basket: ${(cents / 100).toFixed(2)} €`;
  });
}
